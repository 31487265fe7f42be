"""One web app on a real database, with a doorbell that only writes down, and the words to speak with it."""

import json
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from flask.testing import FlaskClient
from sqlalchemy import func, select
from werkzeug.test import EnvironBuilder, TestResponse, run_wsgi_app

from pool.model import Task
from pool.schema import deliveries
from pool.store import Claim, Receipt, Store
from tasks.engine import Engine
from tasks.settings import Settings
from tests.helpers.clock import Clock
from tests.helpers.deliveries import Delivery, load, sign
from tests.helpers.fakes import FakeBell
from tests.helpers.stores import open_fast, throwaway_store
from webapp.app import create_app

SECRET = b"the-secret-of-the-webhook"
TOKEN = "the-token-of-the-operator"
URL = "/webhooks/forgejo"

CONFIG = """
[service]
forge_url = "https://forge.example"
webhook_secret_file = "webhook-secret"
operator_token_file = "operator-token"
repos = {repos}
state_dir = "state"
max_body_bytes = {max_body_bytes}
merge_type = "{merge_type}"
"""
TYPE = """
[types.{name}]
forge_user = "{name}"
git_name = "{name}"
git_email = "{name}@forge.example"
command = ["true"]
"""
#: Name of an instance -> its type.
INSTANCES = {"boss-one": "boss", "dev-alpha": "dev", "dev-bravo": "dev", "reviewer-one": "reviewer"}


def make_settings(
    folder: Path, *, repos: Sequence[str] = ("acme/widgets",), max_body_bytes: int = 1 << 20, merge_type: str = "boss"
) -> Settings:
    """Write a configuration with its secrets, and read it."""
    (folder / "webhook-secret").write_bytes(SECRET + b"\n")
    (folder / "operator-token").write_text(TOKEN + "\n", encoding="ascii")
    service = CONFIG.format(repos=json.dumps(list(repos)), max_body_bytes=max_body_bytes, merge_type=merge_type)
    types = "".join(TYPE.format(name=name) for name in ("dev", "reviewer", "boss"))
    (folder / "forgepool.toml").write_text(service + types, encoding="utf-8")
    return Settings.load(folder / "forgepool.toml")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """The answer to one delivery."""

    status: int
    text: str  #: the whole body
    verdict: str | None
    reason: str
    rule: str | None
    tasks: tuple[int, ...]
    receipt: int | None

    @classmethod
    def of(cls, response: TestResponse) -> "Reply":
        """Read an answer."""
        return cls.read(response.status_code, response.text)

    @classmethod
    def read(cls, status: int, text: str) -> "Reply":
        """Read an answer; every one is JSON."""
        told: dict[str, Any] = json.loads(text)
        return cls(
            status=status,
            text=text,
            verdict=told["verdict"],
            reason=told["reason"],
            rule=told.get("rule"),
            tasks=tuple(told.get("tasks", ())),
            receipt=told.get("receipt"),
        )


@dataclass
class Door:
    """A running web app and what is behind it."""

    folder: Path
    store: Store
    clock: Clock
    settings: Settings
    bell: FakeBell = field(default_factory=FakeBell)

    def __post_init__(self) -> None:
        """Build the app."""
        self.engine = Engine(self.settings, self.store, self.bell)
        self.app = create_app(self.engine)

    @property
    def client(self) -> FlaskClient:
        """Return a client of its own, fit for one thread."""
        return self.app.test_client()

    @contextmanager
    def reopened(self, *, busy_s: float = 15.0) -> Iterator["Door"]:
        """Start another app on the same database file, as a restart or a second process would."""
        store = open_fast(self.folder / "forgepool.db", self.clock, busy_s=busy_s)
        try:
            yield Door(self.folder, store, self.clock, self.settings, self.bell)
        finally:
            store.close()

    # --- what the forge does ------------------------------------------------------------------

    def post(self, sent: Delivery | str, *, url: str = URL, secret: bytes = SECRET, **headers: str) -> Reply:
        """Post a delivery, signed; a name is that of a sample."""
        delivery = load(sent) if isinstance(sent, str) else sent
        source = "forgejo" if "X-Forgejo-Delivery" in delivery.headers else "gitea"
        signed = {**delivery.headers, **sign(delivery.body, secret, source=source), **headers}
        return self.send(delivery.body, signed, url=url)

    def send(self, body: bytes, headers: Mapping[str, str], *, url: str = URL) -> Reply:
        """Post bytes as they are."""
        return Reply.of(self.client.post(url, data=body, headers=dict(headers)))

    def hand_over(self, stream: IO[bytes], headers: Mapping[str, str], *, length: int | None) -> Reply:
        """Hand over what a server has read of a transfer; the test client would repair the length.

        length: what the sender promised; None: he sends chunks, and the server says where they end.
        """
        builder = EnvironBuilder(path=URL, method="POST", headers=list(headers.items()))
        environ = {**builder.get_environ(), "wsgi.input": stream}
        if length is None:
            environ |= {"HTTP_TRANSFER_ENCODING": "chunked", "wsgi.input_terminated": True}
        else:
            environ["CONTENT_LENGTH"] = str(length)
        parts, status, _ = run_wsgi_app(self.app, environ)
        return Reply.read(int(status[:3]), b"".join(parts).decode())

    # --- what an operator does ----------------------------------------------------------------

    def cancel(self, body: Any = None, *, token: str | None = TOKEN, **request: Any) -> TestResponse:
        """POST /cancel; `request`: anything else that the test client takes."""
        headers = {"Authorization": f"Bearer {token}"} if token is not None else {}
        what = request or {"json": {} if body is None else body}
        return self.client.post("/cancel", headers=headers, **what)

    def add(self, *names: str, type_name: str = "dev") -> None:
        """Add instances."""
        with self.store.writing() as tx:
            for name in names:
                tx.add_instance(name, type_name)

    def add_usual(self) -> None:
        """Add two instances of dev, and one each of reviewer and boss."""
        with self.store.writing() as tx:
            for name, type_name in INSTANCES.items():
                tx.add_instance(name, type_name)

    def claim(self, instance: str) -> Task:
        """Let the worker of an instance start the head of its queue."""
        with self.store.writing() as tx:
            claim = tx.claim(instance, lease_s=60)
        assert isinstance(claim, Claim)
        return claim.task

    # --- what became of it --------------------------------------------------------------------

    def task(self, task_id: int) -> Task:
        """Read one task."""
        with self.store.reading() as tx:
            return tx.task(task_id)

    def tasks(self) -> list[Task]:
        """Read all tasks, oldest first."""
        with self.store.reading() as tx:
            return tx.list_tasks(newest_first=False, limit=1000)

    def work(self) -> list[tuple[str, str, int, str]]:
        """Return (type, kind, number, state) of every task, oldest first."""
        return [(t.type, str(t.request.kind), t.request.number, str(t.state)) for t in self.tasks()]

    def receipts(self) -> list[Receipt]:
        """Read all receipts, oldest first."""
        with self.store.reading() as tx:
            return tx.list_deliveries(limit=5000)[::-1]

    def kept(self, receipt: int | None) -> tuple[dict[str, str], bytes | None]:
        """Return the headers and the body that a receipt keeps."""
        assert receipt is not None
        with self.store.reading() as tx:
            return tx.delivery_body(receipt)

    def count_receipts(self, **where: Any) -> int:
        """Count receipts by equal columns."""
        query = select(func.count()).select_from(deliveries).filter_by(**where)
        with self.store.reading() as tx:
            return tx.connection.scalar(query) or 0


@contextmanager
def throwaway_door(**settings: Any) -> Iterator[Door]:
    """Give a door to one property."""
    with throwaway_store() as (store, clock), tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        door = Door(folder, store, clock, make_settings(folder, **settings))
        door.add_usual()
        yield door


def edited(name: str, changes: Mapping[str, Any] | None = None) -> Delivery:
    """Return a sample with members set by dotted path, as a delivery of its own with a new id."""
    sample = load(name)
    body = json.loads(sample.body)
    for path, value in (changes or {}).items():
        *way, last = [int(step) if step.isdecimal() else step for step in path.split(".")]
        parent = body
        for step in way:
            parent = parent[step]
        parent[last] = value
    raw = json.dumps(body, indent=2).encode()
    return renamed(Delivery(name=name, body=raw, headers=sample.headers, family=sample.family))


def renamed(delivery: Delivery) -> Delivery:
    """Return the same delivery with a new id: what the forge's button "replay" sends."""
    fresh = str(uuid.uuid4())
    headers = {name: fresh if name.endswith("-Delivery") else value for name, value in delivery.headers.items()}
    return Delivery(name=delivery.name, body=delivery.body, headers=headers, family=delivery.family)


def users(*logins: str) -> list[dict[str, str]]:
    """Return users as the forge writes them, as far as anybody reads them."""
    return [{"login": login} for login in logins]


def assigned(*logins: str, at: str = "2026-03-02T09:05:00Z", action: str = "assigned", number: int = 7) -> Delivery:
    """Return the news that these are the assignees of an issue now."""
    return edited(
        "issue-assigned.json",
        {
            "action": action,
            "number": number,
            "issue.number": number,
            "issue.assignees": users(*logins) or None,
            "issue.updated_at": at,
        },
    )
