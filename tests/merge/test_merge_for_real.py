"""One lane with nothing faked but the forge: its REST interface over HTTP, the real client, real updates by git."""

from pathlib import Path

from pool.lanes import MergeState
from pool.model import Evidence
from pool.store import NoClaim, Store
from tasks import merge
from tasks.engine import Engine
from tasks.settings import Settings
from tests.helpers.clock import Clock
from tests.helpers.config import type_table, write_config
from tests.helpers.fakes import FakeBell
from tests.helpers.merging import REPO, Orders
from webapp.standin.forge import StandInForge


def work_off(engine: Engine) -> None:
    """Do all links that are queued, with the tools of a deployment."""
    while True:
        with engine.store.writing() as tx:
            claimed = tx.claim("boss-a", lease_s=60)
        if isinstance(claimed, NoClaim):
            return
        done = merge.run_link(engine, claimed, Orders())
        with engine.store.writing() as tx:
            tx.finish(claimed.task.id, done.move, fence=claimed.fence, evidence=Evidence(), why=done.why)
            done.then(tx)


def test_two_approved_pull_requests_end_up_on_one_branch(tmp_path: Path, store: Store, clock: Clock) -> None:
    with StandInForge(tmp_path / "forge", secret=b"secret") as forge:
        for login in ("acme", "dev", "ann"):
            forge.create_user(login)
        (tmp_path / "boss.token").write_text(forge.create_user("boss") + "\n")
        forge.create_repo(REPO)
        types = {"dev": type_table("dev"), "boss": type_table("boss", token_file="boss.token")}
        path = write_config(tmp_path, types=types, forge_url=forge.url, ci_grace_s=0, forge_rate=1000)
        engine = Engine(Settings.load(path), store, FakeBell())
        issue = forge.create_issue(REPO, "Sell more")
        heads = {}
        for name in ("one", "two"):
            forge.commit(REPO, f"dev/{name}", {name: "new\n"}, sender="dev")
            number = forge.open_pull(REPO, "dev", f"dev/{name}", name, body=f"Closes #{issue}.")
            forge.review(REPO, number, "ann", "approved")
            heads[number] = forge.find_pull(forge.repos[REPO], number).head_sha
        with store.writing() as tx:
            tx.add_instance("boss-a", "boss")
            for number, head in heads.items():
                merge.enter(engine, tx, REPO, "main", number, head_sha=head, approved_at=tx.now, by="test")
        work_off(engine)
        for _ in range(3):
            clock.advance(60)
            merge.due(engine)
            work_off(engine)

        git = forge.repos[REPO].git
        pulls = [forge.find_pull(forge.repos[REPO], number) for number in heads]
        assert [(pull.state, pull.merged_by) for pull in pulls] == [("closed", "boss")] * 2
        assert (git.file("main", "one"), git.file("main", "two")) == ("new\n", "new\n")
        # The second took in what the first had made of the base, and was approved all the same.
        updated = git.info(pulls[1].head_sha)
        assert updated is not None
        assert updated.parents == (heads[pulls[1].number], pulls[0].merge_commit_sha)
    with store.reading() as tx:
        assert {row.state for row in tx.list_merges()} == {MergeState.MERGED}
        owed = {effect.key.rpartition(":")[0] for effect in tx.list_effects() if effect.kind != "report"}
    assert owed == {f"close:{REPO}#{issue}", *(f"delete-branch:{REPO}:dev/{name}" for name in ("one", "two"))}
