"""`forgepool chaos`: builds a deployment, kills it at every point, and tells what became of the work."""

import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

from pool.errors import BadInput
from tasks import logs
from webapp.chaos import plan
from webapp.chaos.campaign import FINAL_S, Campaign
from webapp.chaos.deployment import RUN_LEASE_S, Deployment
from webapp.chaos.report import Report


def play(
    *,
    long: bool,
    rounds: int,
    kills: int,
    seed: int,
    only: Sequence[str],
    say: Callable[[str], None],
    state_dir: Path | None = None,
    within_s: float = FINAL_S,
    run_lease_s: float = RUN_LEASE_S,
    keep: bool = False,
    broker_url: str = "",
    database_url: str = "",
) -> Report:
    """Make the faults and return the verdict.

    rounds: of the matrix, the whole one if `long`. kills: random ones under load. say: told what happens.
    state_dir: an empty or new folder; None: a temporary one. keep: leave the folder.
    within_s: for all work to end after a kill.
    """
    rng = Random(seed)  # noqa: S311 - chosen for its seed
    cells = plan.cells(rounds=rounds, long=long, only=plan.check_only(only), rng=rng)
    logs.configure("console", level=logging.CRITICAL)
    folder = _fresh(state_dir)
    begin = time.monotonic()
    try:
        deployment = Deployment(folder, run_lease_s=run_lease_s, broker_url=broker_url, database_url=database_url)
        campaign = Campaign(deployment, rng, say, within_s=within_s)
        campaign.run(cells, kills=kills)
        for victim in sorted(campaign.skipped):
            say(f"there is no {victim} of ours here, so none was killed")
    finally:
        if keep:
            say(f"everything is kept in {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    return Report(
        faults=campaign.faults,
        wrongs=campaign.wrongs,
        requests=campaign.requests,
        rows=campaign.rows,
        seed=seed,
        took_s=time.monotonic() - begin,
    )


def _fresh(state_dir: Path | None) -> Path:
    if state_dir is None:
        return Path(tempfile.mkdtemp(prefix="forgepool-chaos-"))
    if state_dir.exists() and any(state_dir.iterdir()):
        raise BadInput("--state-dir", str(state_dir), "use an empty or a new folder: a deployment would be destroyed")
    state_dir.mkdir(parents=True, exist_ok=True)
    return state_dir.absolute()
