"""The frame of the stand-in forge's REST interface: who asks, for what repository, which page, and how a no is said."""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from flask import Flask, Request, Response, request

from webapp.standin.faults import AnswerLost, Rule
from webapp.standin.records import Repo, User
from webapp.standin.refusals import Refusal, forbidden, not_found
from webapp.standin.shapes_rest import RestShapes
from webapp.standin.tracker import Tracker

#: modules/setting/api.go.
PAGE, MAX_PAGE = 30, 50


@dataclass(frozen=True, slots=True)
class Reply:
    """What is answered; no value: an empty body."""

    status: int = 200
    value: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call: the forge, who asks, and what was sent."""

    forge: Tracker
    doer: User | None
    has_password: bool  #: by login and password, not by a token
    request: Request

    @property
    def login(self) -> str:
        """Login of who asks. Raises Refusal when that is nobody."""
        if self.doer is None:
            raise Refusal(401, "token is required")
        return self.doer.login

    @property
    def shapes(self) -> RestShapes:
        """What makes JSON."""
        return self.forge.shapes

    @property
    def body(self) -> dict[str, Any]:
        """What was sent; an empty object for nothing. Raises Refusal when it is no JSON object."""
        raw = self.request.get_data()
        try:
            value = json.loads(raw) if raw.strip() else {}
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise Refusal(422, "[]: json: cannot unmarshal")
        return value

    def arg(self, name: str, default: str = "") -> str:
        """Return a part of the query."""
        return self.request.args.get(name, default)

    def repo(self, owner: str, name: str, right: str = "read", *, is_write: bool = False) -> Repo:
        """Return the repository if the account may see it and do that. Raises Refusal."""
        repo = self.forge.repos.get(f"{owner}/{name}")
        if repo is None:
            raise not_found()
        who = self.doer.login if self.doer else None
        if not self.forge.may(repo, who, "read"):
            raise not_found() if "private-looks-absent" in self.forge.model else forbidden("it is private")
        if is_write or right != "read":
            who = self.login
        if not self.forge.may(repo, who, right):
            raise forbidden(f"user should have a permission to {right} to a repo")
        if is_write and repo.archived:
            raise Refusal(423, f"{repo.full_name} is archived")
        return repo

    def admin(self) -> str:
        """Return the login of a site administrator. Raises Refusal for others."""
        login = self.login
        if self.doer is None or not self.doer.is_admin:
            raise forbidden("user should be the site admin")
        return login

    def page(self, items: Sequence[Any], shape: Callable[[Any], Any]) -> Reply:
        """Return a page of a list: services/context/api.go, SetLinkHeader."""
        page = max(_number(self.arg("page")), 1)
        limit = _number(self.arg("limit"))
        limit = limit if limit > 0 else PAGE
        if "pages-are-bounded" in self.forge.model:
            limit = min(limit, MAX_PAGE)
        last = max((len(items) + limit - 1) // limit, 1)
        shown = items[(page - 1) * limit : page * limit]
        headers = {"X-Total-Count": str(len(items))}
        links = [*((page + 1, "next"), (last, "last")), *((1, "first"), (page - 1, "prev"))]
        wanted = links[: 2 if page < last else 0] + links[2 if page > 1 else 4 :]
        if wanted:
            headers["Link"] = ",".join(f'<{self._page_url(number)}>; rel="{name}"' for number, name in wanted)
        return Reply(200, [shape(item) for item in shown], headers)

    def whole(self, items: Sequence[Any], shape: Callable[[Any], Any]) -> Reply:
        """Return a list that has no pages."""
        return Reply(200, [shape(item) for item in items], {"X-Total-Count": str(len(items))})

    def _page_url(self, page: int) -> str:
        query = urlencode({**self.request.args, "page": str(page)})
        return f"{self.forge.url}{self.request.path}?{query}"


Handler = Callable[..., Reply]


class Routes(list[tuple[str, str, Handler]]):
    """The calls that one module answers: a decorator."""

    def __call__(self, method: str, path: str) -> Callable[[Handler], Handler]:
        """Let a function answer a call."""

        def add(handler: Handler) -> Handler:
            self.append((method, path, handler))
            return handler

        return add


def register(app: Flask, forge: Tracker, routes: Routes, *, root: str = "/api/v1") -> None:
    """Let an application answer calls."""
    for method, path, handler in routes:
        endpoint = f"{method} {root}{path}"
        app.add_url_rule(root + path, endpoint=endpoint, view_func=_view(forge, handler), methods=[method])


def _view(forge: Tracker, handler: Handler) -> Callable[..., Response]:
    def view(**parts: Any) -> Response:
        where = request.method, request.path
        if slow := forge.faults.strike("api-slow", *where):
            time.sleep(slow.seconds)
        if refused := forge.faults.strike("api-before", *where):
            return _json(refused.status or 503, _message(forge, "out of order on request"))
        with forge.holding() as send:
            response = _answer(forge, handler, parts)
        if lost := forge.faults.strike("api-after", *where):
            send()
            return _lost(forge, lost)
        # Who asked does not wait for whoever listens.
        response.call_on_close(send)
        return response

    return view


def _answer(forge: Tracker, handler: Handler, parts: Mapping[str, Any]) -> Response:
    doer: User | None = None
    try:
        doer, has_password = _who(forge)
        call = Call(forge=forge, doer=doer, has_password=has_password, request=request)
        reply = handler(call, **parts)
    except Refusal as refusal:
        return _refused(forge, refusal, is_admin=bool(doer and doer.is_admin))
    if reply.value is None and reply.status != 200:  # noqa: PLR2004 - OK
        return Response(status=reply.status, headers=dict(reply.headers))
    empty = reply.value is None
    response = Response(status=200) if empty else _json(reply.status, reply.value)
    response.headers.update(reply.headers)
    return response


def _who(forge: Tracker) -> tuple[User | None, bool]:
    """Return whose credentials came with the request, and whether with a password. Raises Refusal for wrong ones."""
    given = request.headers.get("Authorization", "")
    if not given:
        return None, False
    basic = request.authorization
    if basic is not None and basic.type == "basic":
        found = forge.account_of(basic.password or "", basic.username)
        has_password = found is not None and basic.password == found.password
    else:
        kind, _, token = given.partition(" ")
        found = forge.account_of(token.strip()) if kind.lower() in {"token", "bearer"} else None
        has_password = False
    if found is None:
        raise Refusal(401, "user does not exist [uid: 0, name: ]")
    if found.must_change_password:
        raise forbidden("You must change your password. Change it at: /user/change_password")
    return found, has_password


def _refused(forge: Tracker, refusal: Refusal, *, is_admin: bool) -> Response:
    if isinstance(refusal.body, bytes):
        return Response(refusal.body, status=refusal.status)
    if refusal.body is not None:
        named = {"url": f"{forge.url}/api/swagger"} if "message" in refusal.body else {}
        return _json(refusal.status, {**refusal.body, **named})
    # services/context/api.go, InternalServerError: what went wrong is for administrators.
    is_hidden = refusal.status == 500 and not is_admin  # noqa: PLR2004 - internal server error
    return _json(refusal.status, _message(forge, "" if is_hidden else refusal.message))


def _message(forge: Tracker, text: str) -> dict[str, str]:
    return {"message": text, "url": f"{forge.url}/api/swagger"}


def _json(status: int, value: Any) -> Response:
    return Response(json.dumps(value), status=status, mimetype="application/json")


def _lost(forge: Tracker, rule: Rule) -> Response:
    """Return what comes instead of an answer to what was done: an error of something in between, or nothing."""
    if rule.status is not None:
        return _json(rule.status, _message(forge, ""))

    return Response(_Torn(), direct_passthrough=True)


class _Torn:
    """A body whose first byte never comes."""

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        raise AnswerLost("the connection was cut on request")


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() else 0
