"""Parts of pages that move by themselves: pushed to the browser as Server-Sent Events (WHATWG HTML §9.2).

One watcher in a process looks for all open pages at once: a small query a second says of which campaigns anything
has moved, and only their parts are made again, once for all who see the same. An open page holds neither a thread
nor a connection to the database, and does not keep its session alive.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

import structlog
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from notifier import accounts
from notifier.settings import Web
from notifier.store import Database

if TYPE_CHECKING:
    from notifier.web.pages import Visit

log = structlog.get_logger()

#: how often the watcher looks, and asks whether the sessions still hold
LOOK_S, SESSIONS_S = 1.0, 3.0
#: a part is made again this often at most, and where nothing seems to move, this often at least
SOONEST_S, LATEST_S = 2.0, 900.0
#: parts are made for so long between two looks; the others' turn comes after the next
_BUDGET_S = 1.0
#: a page hears so often that its part has been looked at (the standard advises 15 s for proxies' sake)
ALIVE_S = 5.0
#: when a browser comes back after the stream broke off
RETRY_MS = 2000
#: what has not been known for so long to be as the database has it is not called fresh
_FRESH_S = 4.0
HEADERS = {"X-Accel-Buffering": "no"}
_LINE = re.compile(r"\r\n|\r|\n")

#: A text that changes when a part may have. Sums, not the highest number: a late commit changes it too. By
#: ix_patient_tally_campaign, ix_tally_campaign and ix_test_send_doctor_id.
_MARKS = text(
    """
    SELECT c.id, concat_ws('|', c.state, c.epoch, c.reason,
        (SELECT sum(id) FROM patient_tally WHERE campaign_id = c.id),
        (SELECT sum(id) FROM tally WHERE campaign_id = c.id),
        (SELECT string_agg(concat(last.id, last.state, last.code), ',') FROM (
            SELECT id, state, code FROM test_send WHERE doctor_id = c.doctor_id AND campaign_id = c.id
            ORDER BY asked_at DESC LIMIT 10
        ) last),
        -- asked for once, not for each campaign: few rows
        (SELECT string_agg(concat(scope, since), ',' ORDER BY scope) FROM hold
         WHERE (scope = 'everything' OR scope LIKE 'channel:%') AND (until IS NULL OR until > now()))
    ) AS mark
    FROM campaign c WHERE c.id = ANY(:campaigns)
    """
)


def marks(session: Session, campaigns: Iterable[int]) -> dict[int, str]:
    """For each campaign a text that is another once its numbers, state, tests or what is stopped have moved."""
    return {row.id: row.mark for row in session.execute(_MARKS, {"campaigns": list(campaigns)})}


class _Key(NamedTuple):
    """Who sees the same."""

    path: str
    doctor_id: int | None
    role: str
    language: str


@dataclass(eq=False, slots=True)
class _Page:
    """One page that is open."""

    visit: Visit
    news: asyncio.Event = field(default_factory=asyncio.Event)
    #: None: goes on; else what is said at the end
    last_word: bytes | None = None

    def end(self, last_word: bytes = b"") -> None:
        self.last_word = last_word
        self.news.set()


@dataclass(eq=False, slots=True)
class _Part:
    """What all pages with one key show."""

    key: _Key
    make: Callable[[Visit], Response]
    #: None: of no single campaign; made again at every turn
    campaign_id: int | None
    pages: set[_Page] = field(default_factory=set)
    event: bytes = b""
    tag: str = ""
    #: what the database said when it was made; "" (which it never says): not known, to be made again
    mark: str | None = ""
    #: by the loop's clock: when it was made last or that failed, and when it was last known to be right
    made_at: float = 0.0
    fresh_at: float = 0.0

    def take(self, visit: Visit, html: str, began_at: float, made_at: float) -> bool:
        """Whether it is another than before; the clock on it does not count."""
        self.fresh_at, self.made_at = began_at, made_at
        tag = hashlib.sha256(html.replace(visit.clock, "").encode()).hexdigest()[:16]
        if tag == self.tag:
            return False
        self.tag, self.event = tag, _event(html, number=tag)
        return True

    def is_due(self, marks: dict[int, str], now: float) -> bool:
        age = now - self.made_at
        if age < SOONEST_S:
            return False
        return self.may_have_moved(marks) or age >= LATEST_S

    def may_have_moved(self, marks: dict[int, str]) -> bool:
        return self.campaign_id is None or marks.get(self.campaign_id) != self.mark


def _event(data: str, *, number: str = "", name: str = "") -> bytes:
    lines = [f"id: {number}"] if number else []
    lines += [f"event: {name}"] if name else []
    lines += [f"data: {line}" for line in _LINE.split(data)]
    return ("\n".join(lines) + "\n\n").encode()


#: the session is over: the page is to be asked for anew, which leads to signing in
_OVER = _event("", name="over")
#: keeps the line open, and says that there is nothing to say
_COMMENT = b": still here\n\n"


class Live:
    """All open pages of this process. To be used in the server's loop alone."""

    def __init__(self, database: Database, web: Web) -> None:
        self._database = database
        self._web = web
        self._parts: dict[_Key, _Part] = {}
        self._watcher: asyncio.Task[None] | None = None
        self._sessions_at = 0.0
        self.is_closed = False

    def __len__(self) -> int:
        return sum(len(part.pages) for part in self._parts.values())

    def close(self) -> None:
        """Ends all streams; browsers come back by themselves. Before a server waits for its connections to end."""
        self.is_closed = True
        for part in self._parts.values():
            for page in part.pages:
                page.end()
        if self._watcher is not None:
            self._watcher.cancel()

    def stream(self, visit: Visit, make: Callable[[Visit], Response], first: Response) -> Response:
        """The stream of a part; `first` is the part as it stands, made for this visit."""
        if self.is_closed:
            return Response(status_code=503, headers={"Retry-After": "5"})
        if visit.request.scope.get("is_head"):
            return Response(media_type="text/event-stream")
        return _Stream(self, visit, make, bytes(first.body).decode())

    # --- one page ---

    def join(self, visit: Visit, make: Callable[[Visit], Response], html: str) -> tuple[_Part, _Page]:
        key = _Key(visit.request.url.path, visit.user.doctor_id, visit.user.role, visit.language)
        part = self._parts.get(key)
        if part is None:
            part = self._parts[key] = _Part(key, make, visit.request.path_params.get("campaign_id"))
        page = _Page(visit)
        part.pages.add(page)
        # Its mark is not known: the next look may make it once more, and finds it the same.
        part.mark, now = "", asyncio.get_running_loop().time()
        self._tell(part, visit, html, now)
        if self._watcher is None or self._watcher.done():
            self._sessions_at = now
            self._watcher = asyncio.create_task(self._watch())
        return part, page

    def leave(self, part: _Part, page: _Page) -> None:
        part.pages.discard(page)
        if not part.pages:
            self._parts.pop(part.key, None)

    async def events(self, part: _Part, page: _Page) -> AsyncIterator[bytes]:
        """What one page is sent, until its session or the server ends."""
        sent = page.visit.request.headers.get("last-event-id", "")
        yield f"retry: {RETRY_MS}\n".encode() + self._alive(part, page)
        while page.last_word is None:
            page.news.clear()
            if part.tag != sent:
                sent = part.tag
                yield part.event
                continue
            try:
                async with asyncio.timeout(ALIVE_S):
                    await page.news.wait()
            except TimeoutError:
                yield self._alive(part, page)
        if page.last_word:
            yield page.last_word

    def _alive(self, part: _Part, page: _Page) -> bytes:
        if asyncio.get_running_loop().time() - part.fresh_at > _FRESH_S:
            return _COMMENT
        return _COMMENT.rstrip() + b"\n" + _event(replace(page.visit, now=datetime.now(UTC)).clock, name="alive")

    # --- all pages ---

    async def _watch(self) -> None:
        while self._parts:
            try:
                await self._round()
            except SQLAlchemyError as error:
                # Pages are told no more that all is fresh, and the next round tries again.
                log.warning("live_look_failed", error=type(error).__name__)
            await asyncio.sleep(LOOK_S)

    async def _round(self) -> None:
        clock = asyncio.get_running_loop().time
        pages = [page for part in self._parts.values() for page in part.pages]
        looked_at = clock()
        asked = looked_at - self._sessions_at >= SESSIONS_S
        found, roles = await run_in_threadpool(
            self._look,
            {part.campaign_id for part in self._parts.values() if part.campaign_id is not None},
            {page.visit.user.session_id for page in pages} if asked else set(),
        )
        if asked:
            self._sessions_at = clock()
            for page in pages:
                if roles.get(page.visit.user.session_id) != page.visit.user.role:
                    page.end(_OVER)
        for part in self._parts.values():
            if not part.may_have_moved(found):
                part.fresh_at = max(part.fresh_at, looked_at)
        until = clock() + _BUDGET_S
        due = [part for part in self._parts.values() if part.is_due(found, clock())]
        for part in sorted(due, key=lambda part: part.made_at):
            await self._renew(part, found)
            if clock() > until:
                break

    def _look(self, campaigns: set[int], sessions: set[int]) -> tuple[dict[int, str], dict[int, str]]:
        with self._database.staff() as session:
            roles = accounts.roles_of(session, sessions, now=datetime.now(UTC), web=self._web) if sessions else {}
            return marks(session, campaigns) if campaigns else {}, roles

    async def _renew(self, part: _Part, found: dict[int, str]) -> None:
        going_on = [page for page in part.pages if page.last_word is None]
        if not going_on:
            return
        visit = replace(going_on[0].visit, now=datetime.now(UTC), cookies={})
        clock = asyncio.get_running_loop().time
        began_at = clock()
        try:
            response = await run_in_threadpool(part.make, visit)
        except SQLAlchemyError as error:
            # It goes to the end of the row, or it would keep all others from their turn. Its pages are no longer
            # told that it is fresh.
            log.warning("live_part_not_made", error=type(error).__name__)
            part.mark, part.made_at = "", clock()
            return
        except Exception as error:  # noqa: BLE001 - the outermost frame: one part must not end the others
            # The pages ask anew and are answered as any request is.
            log.error("live_part_failed", error=type(error).__name__)
            for page in part.pages:
                page.end(_OVER)
            return
        if part.campaign_id is not None:
            part.mark = found.get(part.campaign_id)
        self._tell(part, visit, bytes(response.body).decode(), began_at)

    def _tell(self, part: _Part, visit: Visit, html: str, began_at: float) -> None:
        if part.take(visit, html, began_at, asyncio.get_running_loop().time()):
            for page in part.pages:
                page.news.set()


class _Stream(StreamingResponse):
    """Counts among the open pages as long as it is being sent."""

    def __init__(self, live: Live, visit: Visit, make: Callable[[Visit], Response], html: str) -> None:
        super().__init__(iter(()), headers=HEADERS, media_type="text/event-stream")
        self._live, self._opened = live, (visit, make, html)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        part, page = self._live.join(*self._opened)
        self.body_iterator = self._live.events(part, page)
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._live.leave(part, page)
