"""How a page is made, and what stands around every page: who may see it, forms, errors, security headers.

A page is a function of a `Visit` that returns a response, declared with its address and who may see it:

    pages = Pages()

    @pages.get("/doctor/campaigns/{campaign_id:int}", allow=DOCTORS)
    def campaign(visit: Visit) -> Response:
        with visit.transaction() as session:            # a doctor's holds that doctor's rows only
            found = session.get(Campaign, visit.number("campaign_id"))
            if found is None:
                raise NotFoundError("There is no such campaign.")      # the 404 page
            return visit.page("doctor/campaign.html", campaign=found)  # templates/web/doctor/campaign.html

    @pages.post("/doctor/campaigns/{campaign_id:int}/approve", allow={Role.DOCTOR})
    def approve(visit: Visit) -> Response:
        shown = visit.text("hash")                      # a field of the form; CSRF was checked
        with visit.transaction() as session:
            acts.approve(session, …, actor=visit.actor, now=visit.now)
        return visit.redirect("/doctor", said="doctor.approved")       # 303; the next page says these words

The module's `pages` goes into `AREAS` of `notifier/web/__init__.py`, its words into
`templates/web/texts/<language>/<area>.toml`, and a line for each page into the table of
`tests/notifier/web/test_access.py`. A page that says not who may see it does not start.

A part of a page that moves by itself is declared by `pages.part`: the part alone at its address, and pushed at the
same with `/live` behind (`live.py`). The page shows it by `parts.moving`; its clock is
`moment(visit.now, seconds=true)`.

Templates extend `layout.html`; every form holds `{{ csrf() }}`. Functions run in threads, so they may wait for
the database. What others may never do is shown nowhere: hide a button with `{% if 'doctor' == role %}`.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import structlog
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from sqlalchemy import text
from sqlalchemy.exc import DataError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from notifier import accounts, sentences
from notifier.accounts import DOCTORS, STAFF, Role, Signed, Source, Stage
from notifier.errors import (
    ConflictError,
    ForbiddenError,
    InputError,
    MissingKeyError,
    NotFoundError,
    NotifierError,
    ServiceError,
    SettingsError,
)
from notifier.settings import Settings
from notifier.store import Database
from notifier.web.live import Live
from notifier.web.openid import Provider
from notifier.web.static import StaticFiles
from notifier.web.texts import Texts, best_language

log = structlog.get_logger()

#: how somebody stands to us: not signed in, half way, or in a role
ANONYMOUS = "anonymous"
STANDINGS = (ANONYMOUS, Stage.INVITED, Stage.SECOND_FACTOR, *Role)
#: pages for everybody, signed in or not
ANYBODY = frozenset(STANDINGS)
#: pages for everybody who is signed in
SIGNED_IN = DOCTORS | STAFF

CSP = "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'"
HEADERS = {
    "Content-Security-Policy": CSP,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}
HSTS = "max-age=31536000; includeSubDomains"
#: where an OpenID Connect provider sends browsers back to: to be registered there
OIDC_BACK = "/sign-in/oidc/back"
CSRF_FIELD, CSRF_HEADER = "csrf", "x-csrf-token"
_LONGEST_NEXT = 500
#: the key of words, and the numbers that go into them
_SAID = re.compile(r"([a-z_]+(?:\.[a-z_]+)+)((?:~[0-9]{1,9}){0,2})")

Handler = Callable[["Visit"], Response]


@dataclass(frozen=True, slots=True)
class Page:
    """One address, one method, and who may use it."""

    method: str
    path: str
    allow: frozenset[str]
    handler: Handler
    #: changes nothing but what is the account's own
    own: bool = False
    #: answered by a stream of events, each the answer of `handler`
    is_live: bool = False


class Pages:
    """The pages of one area."""

    def __init__(self) -> None:
        self.all: list[Page] = []

    def get(self, path: str, *, allow: Collection[str]) -> Callable[[Handler], Handler]:
        """Declares a page that changes nothing. `allow`: roles, or ANYBODY, SIGNED_IN, a stage of signing in."""
        return self._add("GET", path, allow)

    def part(self, path: str, *, allow: Collection[str]) -> Callable[[Handler], Handler]:
        """Declares a part of a page that moves by itself: for who asks, and pushed at `/live` behind it."""

        def add(handler: Handler) -> Handler:
            self._add("GET", f"{path}/live", allow, is_live=True)(handler)
            return self._add("GET", path, allow)(handler)

        return add

    def post(self, path: str, *, allow: Collection[str], own: bool = False) -> Callable[[Handler], Handler]:
        """Declares what a form sends. An auditor's forms may change what is the account's own (`own`) alone."""
        return self._add("POST", path, allow, own=own)

    def _add(
        self, method: str, path: str, allow: Collection[str], *, own: bool = False, is_live: bool = False
    ) -> Callable[[Handler], Handler]:
        def add(handler: Handler) -> Handler:
            page = Page(method, path, frozenset(allow), handler, own, is_live)
            require_declared(page)
            self.all.append(page)
            return handler

        return add


def require_declared(page: Page) -> None:
    """Raises SettingsError for a page that names nobody, somebody unknown, or lets an auditor change things."""
    if not page.allow or page.allow - set(STANDINGS):
        raise SettingsError(f"{page.method} {page.path} must say who may use it, of: {', '.join(STANDINGS)}.")
    if page.method != "GET" and Role.AUDITOR in page.allow and not page.own:
        raise SettingsError(f"{page.method} {page.path}: an auditor reads only.")


@dataclass(frozen=True, slots=True)
class Site:
    """What all pages share."""

    settings: Settings
    database: Database
    texts: Texts
    files: StaticFiles
    templates: Environment
    zone: ZoneInfo
    is_https: bool
    #: told when an email waits to be sent
    wake_mailer: Callable[[], None]
    #: None without one
    oidc: Provider | None
    #: all open pages with parts that move
    live: Live

    def cookie(self, name: str) -> str:
        """A cookie's full name: with https one that no other host can set (RFC 6265bis §4.1.3.2)."""
        return f"__Host-pn_{name}" if self.is_https else f"pn_{name}"


def make_site(settings: Settings, database: Database, wake_mailer: Callable[[], None]) -> Site:
    """Raises SettingsError if words, files or templates of pages cannot be read, or the time zone is unknown."""
    folder = Path(settings.templates_dir) / "web"
    try:
        zone = ZoneInfo(settings.web.time_zone)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise SettingsError(f"NOTIFIER_WEB__TIME_ZONE: there is no time zone {settings.web.time_zone}.") from error
    files = StaticFiles(folder / "static")
    templates = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.globals["static"] = files.path_of
    is_https = urlsplit(settings.public_url).scheme == "https"
    oidc = Provider(settings.oidc, settings.public_url.rstrip("/") + OIDC_BACK) if settings.oidc.issuer else None
    texts, live = Texts(folder / "texts"), Live(database, settings.web)
    return Site(settings, database, texts, files, templates, zone, is_https, wake_mailer, oidc, live)


@dataclass(slots=True)
class Visit:
    """One request: who makes it, what it says, and how to answer."""

    site: Site
    request: Request
    now: datetime
    signed: Signed | None
    #: the session's secret, or a passing one before signing in
    token: str
    language: str
    form: FormData = field(default_factory=FormData)
    #: to be set with the answer: value and seconds (None: until the browser closes; 0: forget)
    cookies: dict[str, tuple[str, int | None]] = field(default_factory=dict)

    # --- who ---

    @property
    def standing(self) -> str:
        """One of STANDINGS."""
        if self.signed is None:
            return ANONYMOUS
        return self.signed.role if self.signed.stage is Stage.FULL else self.signed.stage

    @property
    def user(self) -> Signed:
        """Who is signed in, or half way."""
        if self.signed is None:
            raise ForbiddenError("Nobody is signed in.")
        return self.signed

    @property
    def actor(self) -> str:
        """How the journal names them."""
        return self.user.actor

    @property
    def source(self) -> Source:
        client = self.request.client
        device = self.request.cookies.get(self.site.cookie("device"))
        return Source(
            client.host if client else "", device, browser_of(self.request.headers.get("user-agent", ""))
        )

    @property
    def asks_alone(self) -> bool:
        """Whether a page asks, not a person: by script, or as one that renews itself without JavaScript."""
        query = self.request.query_params
        return "hx-request" in self.request.headers or query.get("alone") == "1"

    @property
    def clock(self) -> str:
        """The clock of the part that this visit asks for, as it stands there."""
        return str(self._moment(self.now, seconds=True))

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """A transaction in which only what they may see exists; an auditor's changes nothing.

        Accounts are out of a doctor's sight: pages about the own account use `site.database.staff()`.
        """
        if self.user.stage is not Stage.FULL:
            raise ForbiddenError("Signing in is not finished.")
        with self.site.database.scope(self.user.doctor_id) as session:
            if self.user.role is Role.AUDITOR:
                session.execute(text("SET TRANSACTION READ ONLY"))
            yield session

    # --- what ---

    def number(self, name: str) -> int:
        """A number of the path (`{name:int}`). Raises NotFoundError for one no row can have."""
        value = int(self.request.path_params[name])
        if value >= 2**63:
            raise NotFoundError("There is no such thing.")
        return value

    def text(self, name: str) -> str:
        """A field of the form, without blanks around; empty if it is not there."""
        value = self.form.get(name, "")
        return value.strip() if isinstance(value, str) else ""

    def upload(self, name: str) -> UploadFile | None:
        """A file of the form; None if none was chosen."""
        value = self.form.get(name)
        return value if isinstance(value, UploadFile) and value.filename else None

    @property
    def next(self) -> str:
        """Where to go on after signing in: an own path."""
        asked = self.form.get("next") or self.request.query_params.get("next") or ""
        return own_path(asked if isinstance(asked, str) else "")

    # --- the answer ---

    def say(self, key: str, **values: object) -> str:
        """Words in their language."""
        return self.site.texts.say(self.language, key, **values)

    def page(self, template: str, status: int = 200, /, **values: Any) -> Response:
        """A page from `templates/web/`."""
        found = self.site.templates.get_template(template)
        return Response(found.render(self._shared() | values), status, media_type="text/html")

    def redirect(self, path: str, said: str = "", *numbers: int) -> Response:
        """To another page of ours; `said` is the key of words that it shows on top, `numbers` its n1 and n2."""
        response = RedirectResponse(path, 303)
        if said:
            self.cookies["said"] = ("~".join([said, *map(str, numbers)]), 60)
        return response

    def _said(self) -> str:
        """What the page before has to say, once."""
        cookie = self.request.cookies.get(self.site.cookie("said"), "")
        if cookie:
            self.cookies.setdefault("said", ("", 0))
        found = _SAID.fullmatch(cookie)
        if found is None or found[1] not in self.site.texts.all[self.language]:
            return ""
        numbers = {f"n{place}": n for place, n in enumerate(found[2].split("~")[1:], start=1)}
        return self.say(found[1], **numbers)

    def error(self, status: int, *, detail: str = "", reference: str = "", wait_s: int = 0) -> Response:
        """The page of an error."""
        headers = {"Retry-After": str(wait_s)} if wait_s else None
        response = self.page(
            "error.html", status, status=status, detail=detail, reference=reference, wait_s=wait_s
        )
        response.headers.update(headers or {})
        return response

    def come_in(self, token: str) -> None:
        """From the answer on, this session's secret is the browser's."""
        self.token = token
        self.cookies["session"] = (token, None)

    def _shared(self) -> dict[str, Any]:
        return {
            "t": self.say,
            "csrf": self._csrf_input,
            "moment": self._moment,
            "because": lambda written: sentences.reason(written, self.language),
            "language": self.language,
            "standing": self.standing,
            "role": self.standing if self.standing in SIGNED_IN else "",
            "service": self.site.settings.web.service,
            "help": self.site.settings.web.help,
            "here": self.request.url.path,
            "said": self._said(),
            "home": home_of(self),
        }

    def _csrf_input(self) -> Markup:
        value = accounts.csrf_token(self.site.settings.master, self.token)
        return Markup('<input type="hidden" name="{}" value="{}">').format(CSRF_FIELD, value)

    def _moment(self, at: datetime, *, seconds: bool = False) -> Markup:
        """An instant in the deployment's time zone, as `<time>`; with seconds where one must see it move."""
        local = at.astimezone(self.site.zone)
        hour = f"{local:%H:%M:%S}" if seconds else f"{local:%H:%M}"
        shown = f"{local:%d/%m/%Y} à {hour}" if self.language == "fr" else f"{local:%d %b %Y}, {hour}"
        return Markup('<time datetime="{}">{}</time>').format(at.astimezone(UTC).isoformat(), shown)


def home_of(visit: Visit) -> str:
    """Where somebody's work is, or the next step on the way in."""
    match visit.standing:
        case Stage.INVITED:
            return "/enrol"
        case Stage.SECOND_FACTOR:
            return "/second-factor"
        case Role.DOCTOR | Role.SECRETARY:
            return "/doctor"
        case Role.OPERATOR | Role.APPROVER | Role.AUDITOR:
            return "/operations"
        case _:
            return "/sign-in"


def own_path(asked: str) -> str:
    """The path if it is one of ours, else "/": nothing that a browser could take for another host."""
    is_plain = asked.isascii() and asked.isprintable() and len(asked) <= _LONGEST_NEXT and "\\" not in asked
    if not is_plain or not asked.startswith("/") or asked.startswith("//"):
        return "/"
    try:
        parts = urlsplit(asked)
    except ValueError:
        return "/"
    return "/" if parts.scheme or parts.netloc else asked


_BROWSERS = (
    ("Edg/", "Edge"),
    ("OPR/", "Opera"),
    ("Firefox/", "Firefox"),
    ("Chrome/", "Chrome"),
    ("Safari/", "Safari"),
)
_SYSTEMS = (
    ("Windows", "Windows"),
    ("iPhone", "iPhone"),
    ("iPad", "iPad"),
    ("Android", "Android"),
    ("Mac OS", "macOS"),
    ("Linux", "Linux"),
)


def browser_of(agent: str) -> str:
    """A browser as its owner would name it; only known words, whatever a client claims to be."""
    found = (next((name for mark, name in table if mark in agent), "") for table in (_BROWSERS, _SYSTEMS))
    return ", ".join(filter(None, found))


# --- around a page ---------------------------------------------------------------------------------------


def endpoint(site: Site, page: Page) -> Callable[[Request], Any]:
    """What Starlette calls for a page."""

    async def serve(request: Request) -> Response:
        request.scope["route"] = page  # its path is what the log names
        visit = Visit(
            site, request, datetime.now(UTC), None, "", best_language(request.headers.get("accept-language", ""))
        )
        try:
            await run_in_threadpool(_recognise, visit, page)
            response = _turned_away(visit, page)
            if response is None:
                if page.method == "POST":
                    visit.form = await _form(visit)
                response = await run_in_threadpool(page.handler, visit)
                if page.is_live:
                    response = site.live.stream(visit, page.handler, response)
        except (NotifierError, SQLAlchemyError, HTTPException) as error:
            response = _of_error(visit, error)
        except Exception as error:  # noqa: BLE001 - the outermost frame of a page: a bug must have a page too
            response = _unexpected(visit, error)
        finally:
            await visit.form.close()
        return _finished(visit, response)

    return serve


def _recognise(visit: Visit, page: Page) -> None:
    site, token = visit.site, visit.request.cookies.get(visit.site.cookie("session"), "")
    if token and len(token) < 100:
        visit.token = token
        with site.database.staff() as session:
            # A page that is only left open must not keep its session alive.
            is_used = not page.is_live and not visit.asks_alone
            visit.signed = accounts.look_up(session, token, now=visit.now, web=site.settings.web, is_used=is_used)
    if visit.signed is not None:
        visit.language = visit.signed.language
    if not visit.token:
        # Nothing is kept of who only looks: forms are bound to this secret until a session begins.
        visit.come_in(accounts.new_token())


def _turned_away(visit: Visit, page: Page) -> Response | None:
    """None for who may use the page."""
    if visit.standing in page.allow:
        return None
    if page.method != "GET" or page.is_live:
        return visit.error(403, detail=visit.say("error.not_signed_in") if visit.standing not in SIGNED_IN else "")
    if visit.standing == ANONYMOUS:
        path = own_path(
            visit.request.url.path + (f"?{visit.request.url.query}" if visit.request.url.query else "")
        )
        return visit.redirect("/sign-in" if path == "/" else f"/sign-in?next={_quoted(path)}")
    if visit.standing in (Stage.INVITED, Stage.SECOND_FACTOR) or not page.allow & SIGNED_IN:
        return visit.redirect(home_of(visit))
    return visit.error(403)


def _quoted(path: str) -> str:
    from urllib.parse import quote

    return quote(path, safe="/")


async def _form(visit: Visit) -> FormData:
    """The form of a request that came from a page of ours. Raises ForbiddenError for any other."""
    request, site = visit.request, visit.site
    origin = request.headers.get("origin")
    public = urlsplit(site.settings.public_url)
    ours = {f"{public.scheme}://{public.netloc}", f"{request.url.scheme}://{request.headers.get('host', '')}"}
    # "null" is what our own forms say under `Referrer-Policy: no-referrer` (Fetch, "append a request Origin").
    if origin not in (None, "null", *ours):
        raise ForbiddenError("The form came from another site.")
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise ForbiddenError("The form came from another site.")
    form = await request.form(max_files=10, max_fields=10_000)
    shown = request.headers.get(CSRF_HEADER) or form.get(CSRF_FIELD, "")
    if not isinstance(shown, str) or not accounts.is_csrf_token(site.settings.master, visit.token, shown):
        await form.close()
        raise ForbiddenError("The form is out of date.")
    return form


_STATUS: tuple[tuple[type[NotifierError], int], ...] = (
    (NotFoundError, 404),
    (ForbiddenError, 403),
    (ConflictError, 409),
    (InputError, 422),
    (ServiceError, 503),
    (MissingKeyError, 503),
)


def _of_error(visit: Visit, error: NotifierError | SQLAlchemyError | HTTPException) -> Response:
    if isinstance(error, HTTPException):
        return visit.error(error.status_code)
    if isinstance(error, OperationalError | InterfaceError | PoolTimeout):
        log.error("database_error", error=type(error).__name__)
        return visit.error(503, wait_s=5)
    if isinstance(error, DataError):
        # What no column can hold (a NUL, a number beyond all) names nothing there is.
        log.warning("value_refused", error=type(error.orig).__name__)
        return visit.error(404)
    if isinstance(error, NotifierError):
        status = next((status for kind, status in _STATUS if isinstance(error, kind)), 500)
        if status == HTTPStatus.FORBIDDEN:
            return visit.error(
                403, detail=visit.say("error.form_expired") if visit.request.method == "POST" else ""
            )
        if status < HTTPStatus.INTERNAL_SERVER_ERROR:
            said = error.in_language(visit.language) if isinstance(error, InputError) else error.message
            return visit.error(status, detail="" if isinstance(error, NotFoundError) else said)
        if status == HTTPStatus.SERVICE_UNAVAILABLE:
            return visit.error(503, wait_s=5)
    return _unexpected(visit, error)


def _unexpected(visit: Visit, error: Exception) -> Response:
    """The number on the page is the one in the log; the error's own words may quote a value and stay unsaid."""
    reference = secrets.token_hex(4)
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    where = f"{Path(place.tb_frame.f_code.co_filename).name}:{place.tb_lineno}" if place else ""
    log.error("page_failed", reference=reference, error=type(error).__name__, where=where)
    return visit.error(500, reference=reference)


def _finished(visit: Visit, response: Response) -> Response:
    site = visit.site
    if visit.asks_alone:
        visit.cookies.pop("said", None)  # said to the person, on the page they come to next
    for name, (value, max_age) in visit.cookies.items():
        response.set_cookie(
            site.cookie(name), value, max_age, secure=site.is_https, httponly=True, samesite="lax", path="/"
        )
    return secured(site, response)


def secured(site: Site, response: Response) -> Response:
    """With the headers of every answer; what a page set itself stays."""
    headers: Mapping[str, str] = HEADERS | {"Cache-Control": "no-store"}
    for name, value in headers.items():
        response.headers.setdefault(name, value)
    if site.is_https:
        response.headers.setdefault("Strict-Transport-Security", HSTS)
    return response


def plain_error(site: Site, request: Request, status: int) -> Response:
    """The page of an error outside of any page."""
    visit = Visit(
        site, request, datetime.now(UTC), None, "", best_language(request.headers.get("accept-language", ""))
    )
    return secured(site, visit.error(status))
