"""The own account: where one is signed in, the language, new recovery codes."""

from __future__ import annotations

from starlette.responses import Response

from notifier import accounts
from notifier.accounts import Wait
from notifier.errors import NotFoundError
from notifier.web.pages import SIGNED_IN, Pages, Visit

pages = Pages()


@pages.get("/account", allow=SIGNED_IN)
def account(visit: Visit) -> Response:
    return _page(visit)


@pages.post("/account/sessions/{session_id:int}/end", allow=SIGNED_IN, own=True)
def end_session(visit: Visit) -> Response:
    with visit.site.database.staff() as session:
        accounts.end_session(
            session, visit.user.account_id, visit.number("session_id"), actor=visit.actor, now=visit.now
        )
    return visit.redirect("/account", said="account.session_ended")


@pages.post("/account/sessions/end-others", allow=SIGNED_IN, own=True)
def end_others(visit: Visit) -> Response:
    with visit.site.database.staff() as session:
        accounts.end_others(session, visit.user, now=visit.now)
    return visit.redirect("/account", said="account.others_ended")


@pages.post("/account/language", allow=SIGNED_IN, own=True)
def language(visit: Visit) -> Response:
    asked = visit.text("language")
    if asked not in accounts.LANGUAGES:
        raise NotFoundError("There is no such language.")
    with visit.site.database.staff() as session:
        accounts.set_language(session, visit.user.account_id, asked)
    return visit.redirect("/account", said="account.language_set")


@pages.post("/account/recovery-codes", allow=SIGNED_IN, own=True)
def recovery_codes(visit: Visit) -> Response:
    with visit.site.database.staff() as session:
        master = visit.site.settings.master
        made = accounts.new_recovery_codes(
            session, master, visit.user, visit.text("code"), visit.source, now=visit.now
        )
    if isinstance(made, Wait):
        return visit.error(429, wait_s=made.seconds)
    if made is None:
        return _page(visit, wrong=visit.say("sign_in.code_wrong"))
    return visit.page("sign_in/codes.html", codes=made, on="/account")


def _page(visit: Visit, wrong: str = "") -> Response:
    settings = visit.site.settings
    with visit.site.database.staff() as session:
        mine = accounts.find(session, visit.user.account_id)
        return visit.page(
            "account/account.html",
            422 if wrong else 200,
            email=accounts.email_of(settings.master, mine),
            sessions=accounts.live_sessions(session, mine.id, now=visit.now, web=settings.web),
            this=visit.user.session_id,
            codes_left=accounts.recovery_codes_left(session, mine.id),
            languages=accounts.LANGUAGES,
            wrong=wrong,
        )
