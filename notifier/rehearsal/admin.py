"""The page and the JSON of the rehearsal servers: what they took, and the faults in force. For this machine only.

No message's contact ever stands in an address: pages go by message number.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson
from aiohttp import web
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from notifier.errors import InputError
from notifier.rehearsal.faults import PRESETS, Both, Faults, changed
from notifier.rehearsal.inbox import Inbox
from notifier.rehearsal.ledger import Ledger, Taken, described, read_mail
from notifier.rehearsal.sms_simulator import SmsSimulator
from notifier.states import Channel

PAGE_ROWS = 50
#: taking so many mails apart holds the loop for about 50 ms
MAX_JSON_ROWS = 200
MAX_REPEATED = 20
LOCAL_NAMES = frozenset({"127.0.0.1", "localhost", "::1"})
#: what the page's form can change, by channel; the set of contacts is for PUT /faults, receipts are the SMS's
FORM_FIELDS = {
    "email": (
        *("latency_s", "jitter_s", "throttled", "broken", "closed", "lost_reply", "lost_reply_hangs_s"),
        *("refused", "sender_refused"),
    ),
    "sms": tuple(name for name in Faults.model_fields if name != "refused_contacts"),
}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the page."""

    number: int
    contact: str
    time: str
    arrived: bool
    subject: str
    to_same_contact: int


class Admin:
    """The routes beside the providers' own."""

    def __init__(self, ledger: Ledger, inbox: Inbox, sms: SmsSimulator, templates_dir: Path) -> None:
        self.ledger = ledger
        self.inbox = inbox
        self.sms = sms
        self._pages = Environment(
            loader=FileSystemLoader(templates_dir / "web"), autoescape=True, undefined=StrictUndefined
        )

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/", self.page),
            web.get("/mail/{number:\\d+}", self.mail),
            web.get("/mail/{number:\\d+}/html", self.mail_html),
            web.get("/counts.json", self.counts),
            web.get("/messages.json", self.messages),
            web.get("/faults", self.get_faults),
            web.put("/faults", self.put_faults),
            web.post("/faults", self.post_faults),
            web.post("/reset", self.reset),
        ]

    @property
    def faults(self) -> Both:
        return Both(email=self.inbox.faults, sms=self.sms.faults)

    def set_faults(self, both: Both) -> None:
        self.inbox.faults, self.sms.faults = both.email, both.sms

    async def page(self, request: web.Request) -> web.Response:
        """One channel's messages, newest first; `like` keeps to the contact of that message."""
        channel = Channel.SMS if request.query.get("channel") == "sms" else Channel.EMAIL
        skip = _whole(request, "skip", 0)
        like = self.ledger.get(_whole(request, "like", -1))
        if like is not None and like.channel is channel:
            found = self.ledger.like(like.number, skip, PAGE_ROWS + 1)
        else:
            like = None
            found = self.ledger.newest(channel, skip, PAGE_ROWS + 1)
        return self._html(
            "rehearsal.html",
            channel=channel.value,
            totals={one.value: self.ledger.total(one) for one in Channel},
            counts={key: value["arrived"] for key, value in self.ledger.counts().items()},
            rows=[self._row(taken) for taken in found[:PAGE_ROWS]],
            like=like,
            skip=skip,
            page_rows=PAGE_ROWS,
            has_more=len(found) > PAGE_ROWS,
            repeated=self.ledger.repeated(channel, MAX_REPEATED),
            faults=self.faults.model_dump(include={channel: set(names) for channel, names in FORM_FIELDS.items()}),
            presets=list(PRESETS),
            problem="",
            receipts={"posted": self.sms.receipts_posted, "given_up": self.sms.receipts_given_up},
        )

    async def mail(self, request: web.Request) -> web.Response:
        """One mail to read: its text, and its HTML in a frame that may do nothing."""
        taken = self._mail(request)
        return self._html(
            "rehearsal_mail.html",
            taken=taken,
            mail=read_mail(taken.content),
            time=_time(taken.at),
            same=self.ledger.count(Channel.EMAIL, taken.contact),
        )

    async def mail_html(self, request: web.Request) -> web.Response:
        html = read_mail(self._mail(request).content).html
        policy = "sandbox; default-src 'none'; style-src 'unsafe-inline'"
        return web.Response(text=html, content_type="text/html", headers={"Content-Security-Policy": policy})

    async def counts(self, request: web.Request) -> web.Response:
        """What was taken, by contact; with `brief` only the totals, for who asks often."""
        receipts = {"posted": self.sms.receipts_posted, "given_up": self.sms.receipts_given_up}
        known = {"receipts": receipts, "tries": {"email": self.inbox.tries, "sms": self.sms.tries}}
        if "brief" in request.query:
            return _json({channel.value: {"taken": self.ledger.total(channel)} for channel in Channel} | known)
        return _json(self.ledger.counts() | known)

    async def messages(self, request: web.Request) -> web.Response:
        """Messages from number `since` on, oldest first, at most `limit`; `next` is where to go on, or null."""
        since, limit = _whole(request, "since", 0), min(_whole(request, "limit", MAX_JSON_ROWS), MAX_JSON_ROWS)
        found = self.ledger.since(since, limit)
        end = since + len(found)
        more = end < sum(self.ledger.total(channel) for channel in Channel)
        return _json({"messages": [described(taken) for taken in found], "next": end if more and found else None})

    async def get_faults(self, request: web.Request) -> web.Response:
        return _json(self.faults.model_dump(mode="json"))

    async def put_faults(self, request: web.Request) -> web.Response:
        try:
            self.set_faults(changed(self.faults, orjson.loads(await request.read())))
        except orjson.JSONDecodeError:
            return _json({"detail": "The body is no JSON."}, status=400)
        except InputError as error:
            return _json({"detail": error.message}, status=422)
        return await self.get_faults(request)

    async def post_faults(self, request: web.Request) -> web.Response:
        """The page's form: a preset by its button, or every field."""
        form = await request.post()
        name = form.get("preset")
        values: dict[str, Any] = {"preset": name} if name else {"email": {}, "sms": {}}
        for key, value in form.items() if not name else ():
            channel, _, field = key.partition(".")
            if field in FORM_FIELDS.get(channel, ()):
                values[channel][field] = value
        if not name:
            # A box that is not ticked is not sent.
            for channel in values:
                values[channel].setdefault("sender_refused", False)
        try:
            self.set_faults(changed(self.faults, values))
        except InputError as error:
            return self._html("rehearsal_problem.html", status=422, problem=error.message)
        raise web.HTTPSeeOther("/#faults")

    async def reset(self, request: web.Request) -> web.Response:
        """Forgets every message; the faults stay."""
        self.ledger.reset()
        if request.content_type == "application/x-www-form-urlencoded":
            raise web.HTTPSeeOther("/")
        return web.Response(status=204)

    def _row(self, taken: Taken) -> Row:
        subject = read_mail(taken.content).subject if taken.channel is Channel.EMAIL else taken.content
        return Row(
            number=taken.number,
            contact=taken.contact,
            time=_time(taken.at),
            arrived=taken.arrived,
            subject=subject,
            to_same_contact=self.ledger.count(taken.channel, taken.contact),
        )

    def _mail(self, request: web.Request) -> Taken:
        taken = self.ledger.get(int(request.match_info["number"]))
        if taken is None or taken.channel is not Channel.EMAIL:
            raise web.HTTPNotFound(text="There is no such mail.")
        return taken

    def _html(self, template: str, status: int = 200, **values: object) -> web.Response:
        nonce = secrets.token_urlsafe(16)
        policy = (
            f"default-src 'none'; style-src 'nonce-{nonce}'; frame-src 'self'; form-action 'self'; "
            "base-uri 'none'; frame-ancestors 'none'"
        )
        text = self._pages.get_template(template).render(nonce=nonce, **values)
        return web.Response(
            status=status,
            text=text,
            content_type="text/html",
            headers={
                "Content-Security-Policy": policy,
                "Referrer-Policy": "same-origin",
                "Cache-Control": "no-store",
            },
        )


@web.middleware
async def local_only(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuses what a page of another site could make a browser ask for: foreign names and foreign forms."""
    host = urlsplit(f"//{request.host}").hostname or ""
    origin = request.headers.get("Origin")
    if host not in LOCAL_NAMES or (origin is not None and urlsplit(origin).netloc != request.host):
        return web.Response(status=403, text="The rehearsal servers answer this machine only.")
    answer = await handler(request)
    if not answer.prepared:
        answer.headers.setdefault("X-Content-Type-Options", "nosniff")
    return answer


def _whole(request: web.Request, name: str, default: int) -> int:
    value = request.query.get(name, "")
    return int(value) if value.isdecimal() else default


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _json(values: object, status: int = 200) -> web.Response:
    return web.Response(status=status, body=orjson.dumps(values), content_type="application/json")
