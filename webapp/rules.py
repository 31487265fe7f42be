"""What an event asks for: one table, read from the top. Pure: no I/O."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from pool.model import Kind, Request
from pool.states import LIVE, State, Verdict
from pool.subject import HOLD_LABEL, Subject
from tasks.order_words import parse as parse_orders
from webapp.assignees import Shift, without
from webapp.commands import (
    Command,
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
from webapp.events import (
    CiEvent,
    CiStatus,
    CommentEvent,
    Event,
    IssueEvent,
    OtherEvent,
    PullEvent,
    ReviewEvent,
    ReviewVerdict,
    SubjectEvent,
)

_NAMES_SHOWN = 5  #: logins in one reason
#: A chain that merges ends by itself, and what comes after the merge is a link of it, too.
_NOT_MERGE = tuple(kind for kind in Kind if kind is not Kind.MERGE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known besides the event."""

    types_by_login: Mapping[str, str]  #: lower-case login of an agent's account -> its type
    merge_type: str | None = None  #: the type that merges; None: nobody merges
    known: Subject | None = None  #: what is stored of the event's issue or pull request
    pull_at_sha: Subject | None = None  #: for an event without a number: the pull request whose head is that commit
    held_by: str | None = None  #: who wants nothing to begin for it; None: nobody
    talks_back: bool = False  #: there is an account that reads the forge: what an event does not tell is looked up

    def type_of(self, login: str | None) -> str | None:
        """Return the type whose account that is; None: a person, or nobody."""
        return self.types_by_login.get((login or "").lower())

    def types_of(self, logins: Iterable[str]) -> tuple[str, ...]:
        """Return the types of those who are agents, each once."""
        return tuple(dict.fromkeys(name for login in logins if (name := self.type_of(login))))


def _accepted(reason: str, *commands: Command) -> Outcome:
    return Outcome(verdict=Verdict.ACCEPTED, reason=reason, commands=commands)


def _ignored(reason: str, *commands: Command) -> Outcome:
    return Outcome(verdict=Verdict.IGNORED, reason=reason, commands=commands)


# --- what both kinds of subject need -------------------------------------------------------------


def _is_stale(event: SubjectEvent, known: Subject | None) -> bool:
    """Tell whether something newer is known. Deliveries are not ordered, and a lost one is never sent again."""
    return bool(known and known.updated_at and event.updated_at and known.updated_at > event.updated_at)


def _is_open(event: SubjectEvent, known: Subject | None) -> bool:
    """Tell whether it is open, as far as the newest news go."""
    return known.is_open if known and _is_stale(event, known) else event.state == "open"


def _remember(event: SubjectEvent, known: Subject | None) -> tuple[Remember, ...]:
    """Return what to store, which is nothing when the event is older than what is known."""
    if _is_stale(event, known):
        return ()
    told = replace(
        known or Subject(repo=event.repo, number=event.number, is_pull=event.is_pull),
        is_pull=event.is_pull,
        title=event.title,
        url=event.url,
        labels=event.labels,
        state=event.state,
        updated_at=event.updated_at or (known.updated_at if known else None),
    )
    match event:
        case IssueEvent():
            told = replace(told, assignees=Shift.of(event, known).now)
        case PullEvent():
            told = replace(told, author=event.author, head_sha=event.head_sha, head_ref=event.branch)
    return (Remember(subject=told),)


def _pass_over(event: SubjectEvent, facts: Facts, reason: str) -> Outcome:
    """Ask for nothing, but learn from what the event tells."""
    return _ignored(reason, *_remember(event, facts.known))


def _closed(event: SubjectEvent, facts: Facts) -> Outcome:
    if _is_open(event, facts.known):
        return _pass_over(event, facts, f"#{event.number} is open again")
    became = "merged" if isinstance(event, PullEvent) and event.merged else "closed"
    why = f"#{event.number} was {became}"
    drop = Supersede(repo=event.repo, number=event.number, types=None, kinds=_NOT_MERGE, why=why)
    forget = ForgetSessions(repo=event.repo, number=event.number)
    return _accepted(why, drop, forget, *_remember(event, facts.known))


def _same(login: str | None, other: str | None) -> bool:
    """Compare as the forge does, without case (models/user/user.go)."""
    return (login or "").lower() == (other or "").lower()


def _names(names: Sequence[str]) -> str:
    more = len(names) - _NAMES_SHOWN
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


# --- issues --------------------------------------------------------------------------------------


def _assignees_changed(event: IssueEvent, facts: Facts) -> Outcome:
    issue, known = f"#{event.number}", facts.known
    if event.is_pull:
        return _pass_over(event, facts, f"{issue} is a pull request: reviewers are asked to work, assignees are not")
    if _is_stale(event, known):
        return _ignored(f"newer news of {issue} came first")
    if event.state != "open":
        return _pass_over(event, facts, f"{issue} is closed")
    if event.action == "unassigned" and (known is None or known.assignees is None):
        # Not remembered either, so that an `assigned` that comes late still counts.
        return _ignored(f"who was assigned to {issue} before is not known")
    return _follow(event, facts, Shift.of(event, known))


def _follow(event: IssueEvent, facts: Facts, shift: Shift) -> Outcome:
    """Start the agents that came and drop what waits for those that went."""
    issue = f"#{event.number}"
    start = facts.types_of(shift.added)
    drop = without(facts.types_of(shift.gone), facts.types_of(shift.now))
    if not start and not drop:
        people = (*shift.added, *shift.gone)
        why = f"no agent's account: {_names(people)}" if people else f"the assignees of {issue} are the ones known"
        return _pass_over(event, facts, why)
    commands: list[Command] = []
    said = []
    if drop:
        why = f"{issue} was re-assigned to {_names(start)}" if start else f"{issue} was unassigned"
        kinds = (Kind.IMPLEMENT,)
        commands.append(Supersede(repo=event.repo, number=event.number, types=drop, kinds=kinds, why=why))
        said.append(f"{issue} no longer waits for {_names(drop)}")
    if start:
        if facts.type_of(event.sender) is None:
            commands.append(ResetCaps(repo=event.repo, number=event.number))
        if (held := _held(event, facts)) is None:
            request = _request(event, Kind.IMPLEMENT)
            commands += [Dispatch(type=name, request=request, absorb=LIVE) for name in start]
        said.append(f"{issue} was assigned to {_names(start)}" + (f"; {held}" if held else ""))
    return _accepted("; ".join(said), *commands, *_remember(event, facts.known))


def _held(event: SubjectEvent, facts: Facts) -> str | None:
    """Say that nothing may begin for it; the look after its release makes up for it."""
    if facts.held_by:
        return f"#{event.number} is held by {facts.held_by}"
    return f"#{event.number} is held by its label {HOLD_LABEL}" if HOLD_LABEL in event.labels else None


def _ordered(event: CommentEvent, facts: Facts) -> Outcome:
    if facts.type_of(event.author) or not _same(event.author, event.sender):
        return _ignored("an agent's words, or words that another changed, are no orders")
    wishes = parse_orders(event.text)
    if not wishes:
        return _ignored("a comment without an order")
    if not facts.talks_back:
        return _ignored("orders need an account that reads the forge: give its type a token")
    orders = TakeOrders(repo=event.repo, number=event.number, comment=event.comment, by=event.author, wishes=wishes)
    return _accepted(f"{event.author} asks: {_names([verb for _, verb, _ in wishes])}", orders)


def _comment_passed_over(event: CommentEvent, facts: Facts) -> Outcome:
    del facts
    return _ignored(f"comment {event.action}: only new ones count")


def _issue_passed_over(event: IssueEvent, facts: Facts) -> Outcome:
    # Not remembered: its newer time would make an `assigned` that comes late look stale, and lose the task.
    del facts
    return _ignored(f"issue {event.action}: only assignments and closing count")


# --- pull requests -------------------------------------------------------------------------------


def _review_requested(event: PullEvent, facts: Facts) -> Outcome:
    reviewer = event.requested_reviewer
    if reviewer is None:
        return _pass_over(event, facts, "the request names no reviewer")
    if _same(reviewer, event.author):
        return _pass_over(event, facts, f"{reviewer} wrote #{event.number}, and nobody reviews their own work")
    return _for_account(event, facts, reviewer, Kind.REVIEW, absorb=LIVE)


def _rejected(event: ReviewEvent, facts: Facts) -> Outcome:
    if _same(event.sender, event.author):
        return _pass_over(event, facts, f"{event.sender} wrote #{event.number}: a review of one's own does not count")
    # Never absorbed: a second reviewer's words are not in the task of the first, and a replay is a duplicate anyway.
    return _for_account(event, facts, event.author, Kind.ADDRESS_REVIEW, absorb=frozenset(), detail=event.content)


def _approved(event: ReviewEvent, facts: Facts) -> Outcome:
    if _same(event.sender, event.author):
        return _pass_over(event, facts, f"{event.sender} wrote #{event.number}: a review of one's own does not count")
    if facts.merge_type is None:
        return _pass_over(event, facts, "no type merges: mark one in the settings, or merge by hand")
    if (reason := _over(event, facts)) or (reason := _held(event, facts)):
        return _pass_over(event, facts, reason)
    if event.head_sha is None:
        return _pass_over(event, facts, f"which commit of #{event.number} was approved is not told")
    lane = EnterLane(
        repo=event.repo,
        base=event.base_ref,
        number=event.number,
        head_sha=event.head_sha,
        approved_at=event.updated_at,
    )
    return _accepted(f"{event.sender} approved #{event.number}", lane, *_remember(event, facts.known))


def _commented(event: ReviewEvent, facts: Facts) -> Outcome:
    return _pass_over(event, facts, "a plain comment is not a review: approve or request changes")


def _pull_passed_over(event: PullEvent, facts: Facts) -> Outcome:
    late = ", and late" if _is_stale(event, facts.known) else ""
    return _pass_over(event, facts, f"pull request {event.action}{late}: nothing to do but to remember it")


def _for_account(
    event: PullEvent, facts: Facts, login: str, kind: Kind, *, absorb: frozenset[State], detail: str = ""
) -> Outcome:
    type_name = facts.type_of(login)
    if type_name is None:
        return _pass_over(event, facts, f"{login} is not an agent's account")
    return _for_type(event, facts, type_name, kind, absorb=absorb, detail=detail)


def _for_type(
    event: PullEvent, facts: Facts, type_name: str, kind: Kind, *, absorb: frozenset[State], detail: str = ""
) -> Outcome:
    if (reason := _over(event, facts)) or (reason := _held(event, facts)):
        return _pass_over(event, facts, reason)
    request = replace(
        _request(event, kind), detail=detail, branch=event.branch, base=event.base_ref, head_sha=event.head_sha
    )
    dispatch = Dispatch(type=type_name, request=request, absorb=absorb)
    return _accepted(f"{kind} of #{event.number} for {type_name}", dispatch, *_remember(event, facts.known))


def _over(event: PullEvent, facts: Facts) -> str | None:
    """Say that nothing is left to do on a pull request."""
    if event.merged:
        return f"#{event.number} is merged"
    return None if _is_open(event, facts.known) else f"#{event.number} is closed"


def _request(event: SubjectEvent, kind: Kind) -> Request:
    return Request(
        kind=kind,
        repo=event.repo,
        number=event.number,
        title=event.title,
        body=event.body,
        labels=event.labels,
        url=event.url,
        sender=event.sender or "",
    )


# --- CI and the rest -----------------------------------------------------------------------------


def _ci_failed(event: CiEvent, facts: Facts) -> Outcome:
    pull = facts.known if event.number else facts.pull_at_sha
    number = event.number or (pull.number if pull else None)
    author = (pull.author if pull else None) or event.author
    type_name = facts.type_of(author)
    if number is None:
        return _ignored(f"{event.context} failed on {event.head_sha}, which is the head of no known pull request")
    if pull and not pull.is_open:
        return _ignored(f"#{number} is closed")
    if type_name is None:
        return _ignored(f"{author} is not an agent's account" if author else f"who wrote #{number} is not known")
    if facts.held_by:
        return _ignored(f"#{number} is held by {facts.held_by}")
    dispatch = Dispatch(type=type_name, request=_fix_request(event, number, pull), absorb=LIVE)
    return _accepted(f"{event.context} failed on #{number}: {dispatch.request.kind} for {type_name}", dispatch)


def _fix_request(event: CiEvent, number: int, pull: Subject | None) -> Request:
    return Request(
        kind=Kind.FIX_CI,
        repo=event.repo,
        number=number,
        title=(pull.title if pull else "") or event.title,
        detail="\n".join(filter(None, (f"{event.context} failed", event.description, event.url))),
        labels=pull.labels if pull else (),
        branch=(pull.head_ref if pull else None) or event.head_ref,
        base=event.base_ref,
        head_sha=event.head_sha,
        url=(pull.url if pull else "") or event.url,
        sender=event.sender or "",
    )


def _ci_passed_over(event: CiEvent, facts: Facts) -> Outcome:
    del facts
    return _ignored(f"{event.context} ended as {event.status}: only a failure asks for work")


def _other_passed_over(event: OtherEvent, facts: Facts) -> Outcome:
    del facts
    if event.is_test:
        return _ignored("a test delivery: the webhook works")
    return _ignored(f"no rule for {' '.join(filter(None, (event.event_type, event.action)))}")


# --- the table -----------------------------------------------------------------------------------

_E = TypeVar("_E", bound=Event)


@dataclass(frozen=True, slots=True)
class Rule(Generic[_E]):
    """One row: which events it is for, and what they ask for."""

    name: str
    on: type[_E]
    actions: AbstractSet[str] | None  #: of Event.word; None: all
    decide: Callable[[_E, Facts], Outcome]
    why: str  #: one sentence for people

    def fits(self, event: Event) -> bool:
        """Tell whether the row is for that event."""
        return isinstance(event, self.on) and (self.actions is None or event.word in self.actions)


#: The first row that fits decides. Together they fit every event.
RULES: tuple[Rule[Any], ...] = (
    Rule("closed", SubjectEvent, {"closed"}, _closed, "Nothing is left to do, so waiting tasks go."),
    Rule("issue-assigned", IssueEvent, {"assigned", "opened"}, _assignees_changed, "Who is assigned implements."),
    Rule("issue-unassigned", IssueEvent, {"unassigned"}, _assignees_changed, "Who is taken off need not start."),
    Rule("review-requested", PullEvent, {"review_requested"}, _review_requested, "Who is asked reviews."),
    Rule("changes-requested", ReviewEvent, {ReviewVerdict.CHANGES_REQUESTED}, _rejected, "The author addresses it."),
    Rule("approved", ReviewEvent, {ReviewVerdict.APPROVED}, _approved, "What another approved is merged."),
    Rule("review-comment", ReviewEvent, {ReviewVerdict.COMMENT}, _commented, "A plain comment is not a review."),
    Rule("ci-failed", CiEvent, {CiStatus.FAILURE}, _ci_failed, "The author of the pull request repairs it."),
    Rule("ci-not-failed", CiEvent, None, _ci_passed_over, "Only a failure asks for work."),
    Rule("pull-changed", PullEvent, None, _pull_passed_over, "It is remembered: CI events may name only its commit."),
    Rule("comment-command", CommentEvent, {"created"}, _ordered, "People with write access may give orders."),
    Rule("comment-changed", CommentEvent, None, _comment_passed_over, "What was said once is not said again."),
    Rule("issue-changed", IssueEvent, None, _issue_passed_over, "Only assignees and the end of an issue count."),
    Rule("anything-else", OtherEvent, None, _other_passed_over, "It is answered and asks for nothing."),
)


def decide(event: Event, facts: Facts) -> Outcome:
    """Return what the first rule that fits makes of the event; what it does not tell is looked up on the forge."""
    rule = next(rule for rule in RULES if rule.fits(event))
    outcome = rule.decide(event, facts)
    return replace(outcome, rule=rule.name, commands=(*outcome.commands, *_look(event, facts)))


def _look(event: Event, facts: Facts) -> tuple[LookAgain, ...]:
    number = event.number or (facts.pull_at_sha.number if facts.pull_at_sha else None)
    if not facts.talks_back or event.repo is None or number is None or isinstance(event, OtherEvent):
        return ()
    return (LookAgain(repo=event.repo, number=number),)
