"""Every page × every standing as a table: a page that is not in it fails, and so does a row without a page."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from fastapi import FastAPI
from starlette.responses import Response

from notifier.accounts import Role, Stage
from notifier.errors import SettingsError
from notifier.web import all_pages
from notifier.web.pages import ANONYMOUS, STANDINGS, Page, Pages, require_declared
from tests.notifier.web.conftest import PASSWORD, NewPerson, Person

EVERYBODY = "anonymous invited second_factor doctor secretary operator approver auditor"
SIGNED_IN = "doctor secretary operator approver auditor"

#: who may; everybody else is turned away
TABLE = {
    "GET /": SIGNED_IN,
    "GET /sign-in": EVERYBODY,
    "POST /sign-in": EVERYBODY,
    "GET /sign-in/sent": EVERYBODY,
    "GET /sign-in/staff": EVERYBODY,
    "POST /sign-in/staff": EVERYBODY,
    "GET /sign-in/oidc": EVERYBODY,
    "GET /sign-in/oidc/back": EVERYBODY,
    "GET /link/{token}": EVERYBODY,
    "POST /link/{token}": EVERYBODY,
    "GET /second-factor": "second_factor",
    "POST /second-factor": "second_factor",
    "GET /recovery": "second_factor",
    "POST /recovery": "second_factor",
    "GET /enrol": "invited",
    "POST /enrol": "invited",
    "POST /enrol/password": "invited",
    "POST /sign-out": EVERYBODY,
    "GET /account": SIGNED_IN,
    "POST /account/sessions/{session_id:int}/end": SIGNED_IN,
    "POST /account/sessions/end-others": SIGNED_IN,
    "POST /account/language": SIGNED_IN,
    "POST /account/recovery-codes": SIGNED_IN,
    "GET /doctor": "doctor secretary",
    "GET /doctor/campaigns/{campaign_id:int}": "doctor secretary",
    "GET /doctor/campaigns/{campaign_id:int}/list": "doctor secretary",
    "POST /doctor/campaigns/{campaign_id:int}/list": "doctor secretary",
    "GET /doctor/campaigns/{campaign_id:int}/list/uploads/{upload_id:int}": "doctor secretary",
    "POST /doctor/campaigns/{campaign_id:int}/list/uploads/{upload_id:int}": "doctor secretary",
    "POST /doctor/campaigns/{campaign_id:int}/list/uploads/{upload_id:int}/import": "doctor secretary",
    "POST /doctor/campaigns/{campaign_id:int}/list/uploads/{upload_id:int}/discard": "doctor secretary",
    "GET /doctor/campaigns/{campaign_id:int}/list/{list_id:int}": "doctor secretary",
    "GET /doctor/campaigns/{campaign_id:int}/list/{list_id:int}/rows": "doctor secretary",
    "GET /doctor/campaigns/{campaign_id:int}/list/{list_id:int}/corrections.csv": "doctor secretary",
    "GET /doctor/campaigns/{campaign_id:int}/list/{list_id:int}/suggestions": "doctor secretary",
    "POST /doctor/campaigns/{campaign_id:int}/list/{list_id:int}/suggestions": "doctor secretary",
    "GET /doctor/campaigns/{campaign_id:int}/list/doubts": "doctor secretary",
    "POST /doctor/campaigns/{campaign_id:int}/list/doubts/{doubt_id:int}": "doctor secretary",
    "GET /doctor/campaigns/{campaign_id:int}/notice": "doctor secretary",
    "GET /doctor/campaigns/{campaign_id:int}/notice/email": "doctor secretary",
    "GET /doctor/campaigns/{campaign_id:int}/notice/tests": "doctor secretary",
    "GET /doctor/campaigns/{campaign_id:int}/notice/tests/now": "doctor secretary",
    "GET /doctor/campaigns/{campaign_id:int}/notice/tests/now/live": "doctor secretary",
    "POST /doctor/campaigns/{campaign_id:int}/notice/test": "doctor secretary",
    "POST /doctor/campaigns/{campaign_id:int}/notice/approve": "doctor",
    "GET /doctor/campaigns/{campaign_id:int}/progress": "doctor secretary",
    "GET /doctor/campaigns/{campaign_id:int}/progress/numbers": "doctor secretary",
    "GET /doctor/campaigns/{campaign_id:int}/progress/numbers/live": "doctor secretary",
    "POST /doctor/campaigns/{campaign_id:int}/progress/start": "doctor",
    "POST /doctor/campaigns/{campaign_id:int}/progress/pause": "doctor secretary",
    "POST /doctor/campaigns/{campaign_id:int}/progress/resume": "doctor",
    "POST /doctor/campaigns/{campaign_id:int}/progress/cancel": "doctor",
    "GET /doctor/campaigns/{campaign_id:int}/people": "doctor secretary",
    "GET /doctor/campaigns/{campaign_id:int}/people/{patient_id:int}": "doctor secretary",
    "GET /doctor/campaigns/{campaign_id:int}/unreached": "doctor secretary",
    "POST /doctor/campaigns/{campaign_id:int}/unreached/tell": "doctor secretary",
    "POST /doctor/campaigns/{campaign_id:int}/unreached/take-back": "doctor secretary",
    "GET /doctor/campaigns/{campaign_id:int}/unreached/letters.csv": "doctor secretary",
    "GET /doctor/campaigns/{campaign_id:int}/unreached/calls.csv": "doctor secretary",
    "GET /doctor/campaigns/{campaign_id:int}/declare": "doctor secretary",
    "GET /doctor/campaigns/{campaign_id:int}/proof": "doctor secretary",
    "POST /doctor/campaigns/{campaign_id:int}/proof": "doctor",
    "GET /operations": "operator approver auditor",
    "GET /operations/now": "operator approver auditor",
    "GET /operations/now/live": "operator approver auditor",
    "GET /operations/campaigns": "operator approver auditor",
    "GET /operations/find": "operator approver auditor",
    "GET /operations/campaigns/{campaign_id:int}": "operator approver auditor",
    "GET /operations/campaigns/{campaign_id:int}/deliveries": "operator approver auditor",
    "GET /operations/set-aside": "operator approver auditor",
    "GET /operations/failed": "operator approver auditor",
    "GET /operations/deliveries/{delivery_id:int}": "operator approver auditor",
    "GET /operations/stop/{scope}": "operator",
    "POST /operations/stop/{scope}": "operator",
    "GET /operations/go/{scope}": "operator",
    "POST /operations/go/{scope}": "operator",
    "GET /operations/campaigns/{campaign_id:int}/pause": "operator",
    "POST /operations/campaigns/{campaign_id:int}/pause": "operator",
    "GET /operations/campaigns/{campaign_id:int}/resume": "operator",
    "POST /operations/campaigns/{campaign_id:int}/resume": "operator",
    "GET /operations/campaigns/{campaign_id:int}/cancel": "operator",
    "POST /operations/campaigns/{campaign_id:int}/cancel": "operator",
    "GET /operations/again/{what}": "operator",
    "POST /operations/again/{what}": "operator",
    "POST /operations/deliveries/{delivery_id:int}/contact": "operator",
}
#: what stands in the place of a path's values
VALUES = {"{token}": "no-such-token", "{session_id:int}": "999999999"}
VALUES |= {f"{{{name}_id:int}}": "999999999" for name in ("campaign", "upload", "list", "patient", "doubt")}
VALUES |= {"{delivery_id:int}": "999999999", "{scope}": "channel:sms", "{what}": "release"}


def test_the_table_names_every_page_and_no_other():
    assert {f"{page.method} {page.path}" for page in all_pages()} == set(TABLE)


def test_every_page_is_declared_as_the_table_says():
    for page in all_pages():
        allowed = set(TABLE[f"{page.method} {page.path}"].split())
        assert page.allow == allowed, page.path


@pytest.fixture
def people(new_person: NewPerson, signed_in: NewPerson, stranger: Callable[[], Person]) -> dict[str, Person]:
    """One of each standing."""
    found = {ANONYMOUS: stranger()} | {role: signed_in(role) for role in Role}
    found[Stage.INVITED] = new_person(Role.DOCTOR)
    found[Stage.INVITED].post(found[Stage.INVITED].invite())
    half = signed_in(Role.OPERATOR)
    half.forget()
    half.post("/sign-in/staff", {"email": half.email, "password": PASSWORD})
    found[Stage.SECOND_FACTOR] = half
    return found


def test_every_page_turns_everybody_else_away(people: dict[str, Person], app: FastAPI):
    assert set(people) == set(STANDINGS)
    app.state.live.close()  # a stream is answered "not now": it would not end by itself
    wrong = []
    # What ends a session comes last.
    for page in sorted(all_pages(), key=lambda page: page.path in ("/sign-out", "/account/sessions/end-others")):
        path = page.path
        for name, value in VALUES.items():
            path = path.replace(name, value)
        for standing in STANDINGS:
            who = people[standing]
            if page.path == "/sign-out" and standing != ANONYMOUS:
                continue  # its own test
            ask = who.get if page.method == "GET" else who.post
            answer = ask(path, follow_redirects=False)
            allowed = standing in TABLE[f"{page.method} {page.path}"].split()
            broken = answer.status_code >= 500 and not (page.is_live and answer.status_code == 503)
            if (outcome := turned_away(page, answer)) is allowed or broken:
                wrong.append((page.method, path, str(standing), answer.status_code, outcome))
    assert wrong == []


def turned_away(page: Page, answer: Response) -> bool:
    """By a page that says so, or to the step that comes first."""
    if answer.status_code == 403:
        return page.path != "/sign-in/oidc/back"  # there it is the provider who is refused
    to = answer.headers.get("location", "").split("?")[0]
    if page.method != "GET" or answer.status_code != 303:
        return False
    if page.path == "/":
        return to in ("/sign-in", "/enrol", "/second-factor")
    # Who is signed in is shown home by the first pages of signing in: that is their answer.
    return not page.path.startswith("/sign-in")


@pytest.mark.parametrize(
    "page",
    [
        Page("GET", "/x", frozenset(), lambda visit: Response()),
        Page("GET", "/x", frozenset({"king"}), lambda visit: Response()),
        Page("POST", "/x", frozenset({Role.OPERATOR, Role.AUDITOR}), lambda visit: Response()),
    ],
)
def test_a_page_that_does_not_say_whose_it_is_does_not_start(page: Page):
    with pytest.raises(SettingsError):
        require_declared(page)
    declare = Pages().get if page.method == "GET" else Pages().post
    with pytest.raises(SettingsError):
        declare(page.path, allow=page.allow)(page.handler)


def test_a_doctor_sees_their_own_campaigns_only(signed_in: NewPerson, doctors: tuple[int, int]):
    mine, others = signed_in(), signed_in(doctor_id=doctors[1])
    assert "incident-1" in mine.get("/doctor").text
    assert "incident-1" not in others.get("/doctor").text
