"""From a raw delivery to a stored verdict: verify, parse, decide, do, remember. Knows no Flask.

Everything that a delivery causes is one transaction with its receipt. The doorbells ring after the commit.
"""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import Any, assert_never

import structlog
from sqlalchemy.exc import SQLAlchemyError

from pool.crashpoints import Point, reach
from pool.errors import Malformed, Refused, RepoNotAllowed, StoreUnavailable
from pool.states import Verdict
from pool.store import Absorbed, Queued, Rejected, Submitted, Tx
from pool.subject import Subject
from tasks import merge
from tasks.dispatch import announce
from tasks.engine import Engine
from webapp import events, rules
from webapp.commands import (
    Dispatch,
    EnterLane,
    ForgetSessions,
    LookAgain,
    Outcome,
    Remember,
    ResetCaps,
    Supersede,
    TakeOrders,
)
from webapp.events import CiEvent, Event
from webapp.rules import Facts

log = structlog.get_logger(__name__)

#: Headers that say what a delivery is: kept with the receipt, so that it can be replayed.
KEPT = ("event", "event-type", "delivery")
#: Seconds until the workflow looks at what an event was about: several come at once, and the forge is still busy.
LOOK_AFTER_S = 1.0
_FORGES = ("x-forgejo-", "x-gitea-")
_MAX_HEADER = 200  #: characters
_MAX_REASON = 1000  #: characters
# What the columns of a receipt hold.
_MAX_ACTION = 255
_MAX_REMOTE = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What became of a delivery."""

    status: int  #: HTTP
    verdict: Verdict
    reason: str
    receipt: int | None = None
    rule: str | None = None
    tasks: tuple[int, ...] = ()  #: queued, absorbing or rejected tasks

    def to_json(self) -> dict[str, Any]:
        """Return the body of the answer: small, because the forge stores it whole."""
        return {
            "verdict": self.verdict,
            "reason": self.reason,
            "rule": self.rule,
            "tasks": list(self.tasks),
            "receipt": self.receipt,
        }


def receive(engine: Engine, body: bytes, headers: Mapping[str, str], *, remote: str | None) -> Answer:
    """Take one delivery: nothing of it is read before its signature is good.

    Raises StoreUnavailable when the database does not serve: then nothing was kept, and the forge must be told so.
    """
    signed = False
    try:
        events.verify(body, headers=headers, secret=engine.settings.webhook_secret())
        signed = True
        event = _admit(engine, events.parse(body, headers=headers))
    except Refused as refusal:
        return refuse(engine, refusal, headers, remote=remote, signed=signed, body=body if signed else None)
    return handle(engine, event, body=body, headers=headers, remote=remote)


def refuse(
    engine: Engine,
    refusal: Refused,
    headers: Mapping[str, str],
    *,
    remote: str | None,
    signed: bool = False,
    body: bytes | None = None,
) -> Answer:
    """Store that a delivery was not let in. The body is kept only if its signature was good."""
    reason = _printable("; ".join(filter(None, (str(refusal), refusal.remedy))), at_most=_MAX_REASON)
    receipt = None
    try:
        with engine.store.writing() as tx:
            receipt = tx.add_delivery(
                source=_source(headers),
                delivery_id=_header(headers, "delivery"),
                event_type=_header(headers, "event-type") or _header(headers, "event"),
                remote=_remote(remote),
                signed=signed,
                body=body,
                headers=_kept(headers) if signed else None,
                verdict=Verdict.REFUSED,
                status=refusal.status,
                reason=reason,
            )
    except (StoreUnavailable, SQLAlchemyError):
        # A stranger is turned away, whether or not that can be written down.
        if signed:
            raise
    log.warning("delivery refused", receipt=receipt, status=refusal.status, why=reason, remote=remote)
    return Answer(status=refusal.status, verdict=Verdict.REFUSED, reason=reason, receipt=receipt)


def handle(
    engine: Engine,
    event: Event,
    *,
    body: bytes,
    headers: Mapping[str, str],
    remote: str | None,
    again: bool = False,
) -> Answer:
    """Decide and do. `again`: an operator replays it, so an earlier delivery of the same meaning does not count."""
    with engine.store.writing() as tx:
        twin = None if again else tx.accepted_twin(delivery_id=event.delivery_id, fingerprint=event.fingerprint)
        receipt = tx.add_delivery(
            source="replay" if again else event.source,
            delivery_id=None if again else event.delivery_id,
            # Without it a replay could neither be a duplicate nor make its original one.
            fingerprint=None if again else event.fingerprint,
            event_type=event.event_type,
            action=event.action[:_MAX_ACTION],
            repo=event.repo,
            number=event.number,
            sender=event.sender,
            remote=_remote(remote),
            signed=True,
            body=body,
            headers=_kept(headers),
        )
        if twin is not None:
            answer, submitted = _duplicate(tx, twin), []
        else:
            facts = _facts(engine, tx, event)
            if again and facts.known is not None:
                # What is known already counts the people that this delivery assigned: to dispatch for them once more
                # is what a replay is for.
                facts = replace(facts, known=replace(facts.known, assignees=None))
            outcome = rules.decide(event, facts)
            submitted = _carry_out(engine, tx, outcome, receipt)
            answer = _answer(outcome, submitted)
        # A status's context, which people choose, is part of some reasons.
        answer = replace(answer, receipt=receipt, reason=_printable(answer.reason, at_most=_MAX_REASON))
        tx.settle_delivery(
            receipt,
            verdict=answer.verdict,
            status=answer.status,
            rule=answer.rule,
            reason=answer.reason,
            duplicate_of=twin,
        )
        reach(Point.BEFORE_COMMIT)
    _announce(engine, submitted, receipt)
    log.info("delivery", receipt=receipt, verdict=answer.verdict, rule=answer.rule, why=answer.reason)
    return answer


def take_again(engine: Engine, receipt: int) -> Answer:
    """Take a stored delivery once more, as if it came now. Raises UnknownDelivery, Refused."""
    with engine.store.reading() as tx:
        headers, body = tx.delivery_body(receipt)
    if body is None:
        raise Malformed(f"delivery {receipt} was refused unread, so there is nothing to replay")
    names = {f"X-Forgejo-{name.title()}": value for name, value in headers.items()}
    event = _admit(engine, events.parse(body, headers={**names, "Content-Type": "application/json"}))
    return handle(engine, event, body=body, headers=names, remote=None, again=True)


def _admit(engine: Engine, event: Event) -> Event:
    """Let in what is about a served repository, by the name under which it is served: a forge's do not differ by case.

    Raises RepoNotAllowed.
    """
    if event.repo is None:
        return event
    if not engine.settings.allows(event.repo):
        remedy = f"add it to service.repos in {engine.settings.path.name}"
        raise RepoNotAllowed(f"{event.repo} is not served here", remedy=remedy)
    served = (name for name in engine.settings.service.repos if name.lower() == event.repo.lower())
    return replace(event, repo=next(served, event.repo))


def _announce(engine: Engine, submitted: list[Submitted], receipt: int) -> None:
    """Ring for what is committed. Whatever goes wrong now, the delivery is taken, and the reconciler rings."""
    try:
        announce(engine, submitted)
    except Exception:
        log.exception("doorbell failed", receipt=receipt, tasks=[one.task for one in submitted])


def _facts(engine: Engine, tx: Tx, event: Event) -> Facts:
    merge_type = engine.settings.service.merge_type
    known = tx.subject(event.repo, event.number) if event.repo and event.number else None
    pull = None
    if isinstance(event, CiEvent) and event.number is None and event.head_sha:
        pull = tx.pull_at(event.repo, event.head_sha)
    return Facts(
        types_by_login=engine.settings.types_by_login,
        merge_type=merge_type if merge_type in engine.settings.types else None,
        known=known,
        pull_at_sha=pull,
        held_by=tx.held_by(event.repo, event.number) if event.repo and event.number else None,
        talks_back=engine.settings.talks_back,
    )


def _carry_out(engine: Engine, tx: Tx, outcome: Outcome, receipt: int) -> list[Submitted]:
    submitted: list[Submitted] = []
    rejected: set[str] = set()
    # What is remembered comes last: nobody counts as assigned whose task could not be queued.
    for command in sorted(outcome.commands, key=lambda command: isinstance(command, Remember)):
        match command:
            case Dispatch(type=type_name):
                one = _submit(engine, tx, command, rule=outcome.rule, receipt=receipt)
                submitted.append(one)
                if isinstance(one, Rejected):
                    rejected.add(type_name)
            case EnterLane():
                submitted += _enter(engine, tx, command, receipt)
            case Remember(subject=subject):
                tx.remember(_without_accounts(engine, subject, rejected))
            case _:
                _note(tx, command, receipt)
    return submitted


def _submit(engine: Engine, tx: Tx, command: Dispatch, *, rule: str | None, receipt: int) -> Submitted:
    return tx.submit(
        command.type,
        command.request,
        by="webhook",
        default_labels=engine.settings.type(command.type).match_labels,
        absorb=command.absorb,
        one_conversation=engine.settings.service.one_conversation,
        rule=rule,
        delivery=receipt,
    )


def _enter(engine: Engine, tx: Tx, command: EnterLane, receipt: int) -> list[Submitted]:
    return merge.enter(
        engine,
        tx,
        command.repo,
        command.base,
        command.number,
        head_sha=command.head_sha,
        approved_at=command.approved_at or tx.now,
        by="webhook",
        delivery=receipt,
    )


def _note(tx: Tx, command: Supersede | ForgetSessions | LookAgain | ResetCaps | TakeOrders, receipt: int) -> None:
    """Do what queues nothing."""
    repo, number = command.repo, command.number
    match command:
        case Supersede(types=types, kinds=kinds, why=why):
            tx.supersede(repo, number, by="webhook", why=why, types=types, kinds=kinds)
        case ForgetSessions():
            tx.drop_sessions_of(repo, number)
        case LookAgain():
            tx.look_later(repo, number, why="webhook", after_s=LOOK_AFTER_S)
            tx.hurry_merge(repo, number)
        case ResetCaps():
            tx.reset_caps(repo, number)
        case TakeOrders(comment=comment, by=by, wishes=wishes):
            told = {"repo": repo, "number": number, "comment": comment, "by": by, "delivery": receipt}
            for line, verb, argument in wishes:
                tx.take_order(**told, line=line, verb=verb, argument=argument)
        case _ as never:
            assert_never(never)


def _without_accounts(engine: Engine, subject: Subject, types: AbstractSet[str]) -> Subject:
    """Take the accounts of some types off the assignees."""
    if subject.assignees is None:
        return subject
    by_login = engine.settings.types_by_login
    return replace(subject, assignees=tuple(a for a in subject.assignees if by_login.get(a.lower()) not in types))


def _answer(outcome: Outcome, submitted: list[Submitted]) -> Answer:
    """Sum up. One task that nobody can take makes the whole delivery an error, so that the forge shows it red."""
    ids = tuple(one.task for one in submitted)
    rejected = [one.error for one in submitted if isinstance(one, Rejected)]
    if rejected:
        return Answer(status=503, verdict=Verdict.ERROR, reason=str(rejected[0]), rule=outcome.rule, tasks=ids)
    dropped = any(isinstance(command, Supersede) for command in outcome.commands)
    if submitted and not dropped and all(isinstance(one, Absorbed) for one in submitted):
        reason = f"task {ids[0]} does this already"
        return Answer(status=200, verdict=Verdict.DUPLICATE, reason=reason, rule=outcome.rule, tasks=ids)
    status = 202 if outcome.verdict is Verdict.ACCEPTED else 200
    where = [f"task {one.task} on {one.instance}" for one in submitted if isinstance(one, Queued)]
    reason = "; ".join([outcome.reason, *where])
    return Answer(status=status, verdict=outcome.verdict, reason=reason, rule=outcome.rule, tasks=ids)


def _duplicate(tx: Tx, twin: int) -> Answer:
    ids = tuple(task.id for task in tx.list_tasks(delivery=twin, newest_first=False))
    return Answer(
        status=200, verdict=Verdict.DUPLICATE, reason=f"delivery {twin} said the same and was accepted", tasks=ids
    )


def _header(headers: Mapping[str, str], name: str) -> str | None:
    """Return a header of the forge, fit for the database and for a terminal; None where it is missing or empty."""
    lower = {key.lower(): value for key, value in headers.items()}
    found = (_printable(lower.get(prefix + name, ""), at_most=_MAX_HEADER).strip() for prefix in _FORGES)
    return next(filter(None, found), None)


def _kept(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name in KEPT if (value := _header(headers, name)) is not None}


def _source(headers: Mapping[str, str]) -> str:
    return "forgejo" if any(key.lower().startswith("x-forgejo-") for key in headers) else "gitea"


def _remote(address: str | None) -> str | None:
    return address and address[:_MAX_REMOTE]


def _printable(text: str, *, at_most: int) -> str:
    return "".join(filter(str.isprintable, text[:at_most]))
