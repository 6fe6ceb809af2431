"""Signing in, step by step: a link or a password or an OpenID Connect provider, then the second factor."""

from __future__ import annotations

import io

import segno
from markupsafe import Markup
from sqlalchemy.orm import Session
from starlette.responses import Response

from notifier import accounts
from notifier.accounts import STAFF, Purpose, Stage, Wait
from notifier.errors import ConflictError, InputError
from notifier.web import oidc
from notifier.web.pages import ANYBODY, OIDC_BACK, SIGNED_IN, Pages, Visit, home_of

pages = Pages()

_SECONDS_OF_A_DAY = 24 * 3600


# --- first factor ----------------------------------------------------------------------------------------


@pages.get("/sign-in", allow=ANYBODY)
def sign_in(visit: Visit) -> Response:
    if visit.standing in SIGNED_IN:
        return visit.redirect(home_of(visit))
    return visit.page("sign_in/sign_in.html", next=visit.next, provider=_provider(visit))


@pages.post("/sign-in", allow=ANYBODY, own=True)
def ask_link(visit: Visit) -> Response:
    """The same answer whether or not the address has an account."""
    email = visit.text("email")
    if not _could_be_address(email):
        wrong = visit.say("sign_in.email_wrong")
        return visit.page("sign_in/sign_in.html", 422, next=visit.next, provider=_provider(visit), wrong=wrong)
    site = visit.site
    with site.database.staff() as session:
        refused = accounts.ask_link(
            session, site.settings.master, email, visit.source, now=visit.now, web=site.settings.web
        )
    if refused is not None:
        return visit.error(429, detail=visit.say("sign_in.link_sent_before"), wait_s=refused.seconds)
    site.wake_mailer()
    return visit.redirect("/sign-in/sent")


@pages.get("/sign-in/sent", allow=ANYBODY)
def link_sent(visit: Visit) -> Response:
    return visit.page("sign_in/sent.html", minutes=visit.site.settings.web.link_min)


@pages.get("/link/{token}", allow=ANYBODY)
def link(visit: Visit) -> Response:
    """Looking uses nothing up: scanners of mail open every link."""
    with visit.site.database.staff() as session:
        purpose = accounts.look_at_link(session, visit.request.path_params["token"], now=visit.now)
    if purpose is None:
        return visit.page("sign_in/link_over.html", 410)
    template = "sign_in/invitation.html" if purpose is Purpose.INVITATION else "sign_in/link.html"
    return visit.page(template, token=visit.request.path_params["token"])


@pages.post("/link/{token}", allow=ANYBODY, own=True)
def use_link(visit: Visit) -> Response:
    with visit.site.database.staff() as session:
        token = accounts.use_link(session, visit.request.path_params["token"], visit.source, now=visit.now)
    if token is None:
        return visit.page("sign_in/link_over.html", 410)
    visit.come_in(token)
    # The way on depends on what the link was for; "/" knows it when the new session is looked at.
    return visit.redirect("/")


@pages.get("/sign-in/staff", allow=ANYBODY)
def staff(visit: Visit) -> Response:
    if visit.standing in SIGNED_IN:
        return visit.redirect(home_of(visit))
    return visit.page("sign_in/staff.html", next=visit.next, email="", provider=_provider(visit))


def _secret(visit: Visit, name: str) -> str:
    """A field as it was typed, blanks included; empty for a file."""
    value = visit.form.get(name, "")
    return value if isinstance(value, str) else ""


@pages.post("/sign-in/staff", allow=ANYBODY, own=True)
def staff_password(visit: Visit) -> Response:
    email, password = visit.text("email"), _secret(visit, "password")
    with visit.site.database.staff() as session:
        master = visit.site.settings.master
        came = accounts.sign_in_by_password(session, master, email, password, visit.source, now=visit.now)
    if isinstance(came, Wait):
        return visit.error(429, wait_s=came.seconds)
    if came is None:
        wrong = visit.say("sign_in.password_wrong")
        return visit.page(
            "sign_in/staff.html", 422, next=visit.next, email=email, provider=_provider(visit), wrong=wrong
        )
    visit.come_in(came)
    return visit.redirect(f"/second-factor?next={oidc.quoted(visit.next)}")


# --- OpenID Connect --------------------------------------------------------------------------------------


@pages.get("/sign-in/oidc", allow=ANYBODY)
def to_provider(visit: Visit) -> Response:
    return oidc.leave(visit)


@pages.get(OIDC_BACK, allow=ANYBODY)
def from_provider(visit: Visit) -> Response:
    return oidc.come_back(visit)


# --- second factor ---------------------------------------------------------------------------------------


@pages.get("/second-factor", allow={Stage.SECOND_FACTOR})
def second_factor(visit: Visit) -> Response:
    return visit.page("sign_in/second_factor.html", next=visit.next)


@pages.post("/second-factor", allow={Stage.SECOND_FACTOR}, own=True)
def check_code(visit: Visit) -> Response:
    with visit.site.database.staff() as session:
        master = visit.site.settings.master
        came = accounts.second_factor(session, master, visit.user, visit.text("code"), visit.source, now=visit.now)
        return _through(visit, session, came, "sign_in/second_factor.html", "sign_in.code_wrong")


@pages.get("/recovery", allow={Stage.SECOND_FACTOR})
def recovery(visit: Visit) -> Response:
    return visit.page("sign_in/recovery.html", next=visit.next)


@pages.post("/recovery", allow={Stage.SECOND_FACTOR}, own=True)
def recover(visit: Visit) -> Response:
    with visit.site.database.staff() as session:
        master = visit.site.settings.master
        came = accounts.recover(session, master, visit.user, visit.text("code"), visit.source, now=visit.now)
        return _through(visit, session, came, "sign_in/recovery.html", "sign_in.recovery_wrong")


def _through(visit: Visit, session: Session, came: str | Wait | None, template: str, wrong: str) -> Response:
    if isinstance(came, Wait):
        return visit.error(429, wait_s=came.seconds)
    if came is None:
        return visit.page(template, 422, next=visit.next, wrong=visit.say(wrong))
    _arrive(visit, session, came)
    return visit.redirect(visit.next)


def _arrive(visit: Visit, session: Session, token: str) -> None:
    """Signed in: from here on this browser is known."""
    visit.come_in(token)
    device = accounts.remember_device(session, visit.user.account_id, visit.source.device, now=visit.now)
    visit.cookies["device"] = (device, accounts.DEVICE_DAYS * _SECONDS_OF_A_DAY)


# --- enrolment -------------------------------------------------------------------------------------------


@pages.get("/enrol", allow={Stage.INVITED})
def enrol(visit: Visit) -> Response:
    if visit.user.role in STAFF and not visit.user.has_password:
        return visit.page("sign_in/password.html", least=accounts.LEAST_PASSWORD)
    return _enrol_page(visit)


@pages.post("/enrol/password", allow={Stage.INVITED}, own=True)
def password(visit: Visit) -> Response:
    asked, again = _secret(visit, "password"), _secret(visit, "again")
    wrong = "" if asked == again else "sign_in.passwords_differ"
    try:
        if not wrong:
            with visit.site.database.staff() as session:
                accounts.set_password(session, visit.user, asked)
    except InputError:
        wrong = "sign_in.password_weak"
    if wrong:
        return visit.page(
            "sign_in/password.html",
            422,
            least=accounts.LEAST_PASSWORD,
            wrong=visit.say(wrong, least=accounts.LEAST_PASSWORD),
        )
    return visit.redirect("/enrol")


@pages.post("/enrol", allow={Stage.INVITED}, own=True)
def finish_enrolment(visit: Visit) -> Response:
    try:
        with visit.site.database.staff() as session:
            master = visit.site.settings.master
            came = accounts.enrol(session, master, visit.user, visit.text("code"), visit.source, now=visit.now)
            if came is not None:
                _arrive(visit, session, came[0])
    except ConflictError:
        return visit.redirect("/")
    if came is None:
        return _enrol_page(visit, wrong=visit.say("sign_in.code_wrong"))
    codes = came[1]
    return visit.page("sign_in/codes.html", codes=codes, on="/")


def _enrol_page(visit: Visit, wrong: str = "") -> Response:
    site = visit.site
    with site.database.staff() as session:
        secret = accounts.secret_to_enrol(session, site.settings.master, visit.user)
        email = accounts.email_of(site.settings.master, accounts.find(session, visit.user.account_id))
    plain = accounts.in_base32(secret)
    return visit.page(
        "sign_in/enrol.html",
        422 if wrong else 200,
        qr=qr_code(accounts.totp_uri(secret, site.settings.web.service, email)),
        secret=" ".join(plain[at : at + 4] for at in range(0, len(plain), 4)),
        wrong=wrong,
    )


def qr_code(content: str) -> Markup:
    """As inline SVG without any style, which the pages' policy would refuse."""
    drawn = io.BytesIO()
    segno.make(content, error="m", micro=False).save(
        drawn, kind="svg", xmldecl=False, svgns=False, scale=4, border=4, dark="#000", light="#fff", omitsize=True
    )
    return Markup(drawn.getvalue().decode())  # noqa: S704 - drawn by us: paths and numbers


# --- out -------------------------------------------------------------------------------------------------


@pages.post("/sign-out", allow=ANYBODY, own=True)
def sign_out(visit: Visit) -> Response:
    if visit.signed is not None:
        with visit.site.database.staff() as session:
            accounts.sign_out(session, visit.signed, now=visit.now)
    visit.cookies["session"] = ("", 0)
    return visit.redirect("/sign-in", said="sign_in.signed_out")


def _provider(visit: Visit) -> str:
    """What the button of the OpenID Connect provider says; empty without one."""
    return visit.site.settings.oidc.label if visit.site.settings.oidc.issuer else ""


def _could_be_address(email: str) -> bool:
    local, at, domain = email.rpartition("@")
    return bool(local and at and "." in domain) and len(email) <= 254 and email.isprintable()
