"""Signing in through the pages: every step, and everything that must not open the door."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from sqlalchemy import text

from notifier import accounts
from notifier.accounts import STAFF, Role
from notifier.models import Journal
from notifier.store import Database
from tests.notifier.web.conftest import PASSWORD, NewPerson, Person, heading

Stranger = Callable[[], Person]


def actions(database: Database) -> list[str]:
    with database.staff() as session:
        return [entry.action for entry in session.query(Journal).order_by(Journal.id) if "user" in entry.subject]


def test_a_doctor_comes_in_by_invitation_and_later_by_link_and_code(new_person: NewPerson, database: Database):
    doctor = new_person()
    invitation = doctor.invite()
    assert heading(doctor.get(invitation)) == "Bienvenue"
    assert heading(doctor.post(invitation)) == "Protégez votre accès"
    from tests.notifier.web.conftest import secret_on

    doctor.secret = secret_on(doctor.get("/enrol").text)
    assert "pas le bon" in doctor.post("/enrol", {"code": "000000"}).text
    assert heading(doctor.post("/enrol", {"code": doctor.code()})) == "Vos codes de secours"
    assert heading(doctor.get("/")) == "Vos patients à informer"
    assert heading(doctor.post("/sign-out")) == "Se connecter"
    assert doctor.get("/doctor").url.path == "/sign-in"
    assert heading(doctor.post(doctor.sign_in_link())) == "Votre code"
    assert heading(doctor.post("/second-factor", {"code": doctor.code()})) == "Vos patients à informer"
    assert actions(database) == [
        "user.create", "user.invite", "user.enrol", "user.sign_in", "user.sign_out", "user.sign_in",
    ]  # fmt: skip


@pytest.mark.parametrize("role", sorted(STAFF))
def test_staff_come_in_by_password_and_code(signed_in: NewPerson, role: Role):
    staff = signed_in(role, language="en")
    staff.post("/sign-out")
    answer = staff.post("/sign-in/staff", {"email": staff.email.upper(), "password": PASSWORD, "next": "/account"})
    assert heading(answer) == "Your code"
    answer = staff.post("/second-factor", {"code": staff.code(), "next": "/account"})
    assert (answer.url.path, heading(answer)) == ("/account", "My account")


def test_a_scanner_that_opens_the_link_does_not_use_it_up(new_person: NewPerson):
    doctor = new_person()
    invitation = doctor.invite()
    for _ in range(3):
        assert heading(doctor.get(invitation)) == "Bienvenue"
        assert doctor.client.head(invitation).status_code == 200
    assert heading(doctor.post(invitation)) == "Protégez votre accès"
    doctor.forget()
    for answer in (doctor.get(invitation), doctor.post(invitation)):
        assert (answer.status_code, heading(answer)) == (410, "Ce lien n’est plus valable")


def test_known_and_unknown_addresses_get_the_same_answer(signed_in: NewPerson, stranger: Stranger):
    known = signed_in()
    answers = []
    for email in (known.email, "nobody@example.org"):
        asker = stranger()
        seen = asker.post("/sign-in", {"email": email}, follow_redirects=False)
        answers.append((seen.status_code, seen.headers["location"], seen.text, asker.get("/sign-in/sent").text))
        wrong = [asker.post("/sign-in/staff", {"email": email, "password": "x"}) for _ in range(8)]
        answers.append([(one.status_code, heading(one)) for one in wrong])
    assert answers[0][:3] == answers[2][:3]
    assert answers[1] == answers[3]
    assert answers[1][-1][0] == 429


def test_a_doctor_is_not_locked_out_by_others_who_fail_in_their_name(
    signed_in: NewPerson, stranger: Stranger, database: Database
):
    staff, attacker = signed_in(Role.OPERATOR), stranger()
    staff.post("/sign-out")  # this browser signed in before
    for _ in range(12):
        last = attacker.post("/sign-in/staff", {"email": staff.email, "password": "guess number one"})
    assert last.status_code == 429
    assert int(last.headers["retry-after"]) > 0
    assert heading(staff.post("/sign-in/staff", {"email": staff.email, "password": PASSWORD})) == "Votre code"
    for _ in range(12):
        last = attacker.post("/sign-in", {"email": staff.email})
    assert last.status_code == 429
    assert staff.post("/sign-in", {"email": staff.email}).status_code == 200


def test_five_wrong_codes_end_the_way_in_and_are_journalled(signed_in: NewPerson, database: Database):
    doctor = signed_in()
    doctor.post("/sign-out")
    doctor.post(doctor.sign_in_link())
    for _ in range(accounts.MOST_CODES):
        assert doctor.post("/second-factor", {"code": "000000"}).status_code == 422
    assert doctor.post("/second-factor", {"code": doctor.code()}).status_code == 403
    assert doctor.get("/doctor").url.path == "/sign-in"
    assert actions(database).count("user.sign_in_failed") == accounts.MOST_CODES


def test_a_code_serves_once(signed_in: NewPerson):
    doctor = signed_in()
    used = doctor.code()
    for expected in (200, 422):
        doctor.post("/sign-out")
        doctor.post(doctor.sign_in_link())
        assert doctor.post("/second-factor", {"code": used}).status_code == expected


def test_a_recovery_code_stands_in_once(signed_in: NewPerson):
    doctor = signed_in()
    assert len(set(doctor.codes)) == accounts.RECOVERY_CODES
    code = doctor.codes[3].upper().replace("-", " ")
    for expected in (200, 422):
        doctor.post("/sign-out")
        doctor.post(doctor.sign_in_link())
        assert doctor.post("/recovery", {"code": code}).status_code == expected


def test_a_session_gets_a_new_secret_at_each_step(new_person: NewPerson):
    doctor = new_person()
    doctor.client.cookies.set("pn_session", "planted-by-somebody-else", domain="testserver.local", path="/")
    seen = {"planted-by-somebody-else"}
    doctor.post(doctor.invite())
    for step in range(2):
        cookie = next(c for c in doctor.client.cookies.jar if c.name == "pn_session")
        assert cookie.value not in seen
        seen.add(cookie.value)
        if step == 0:
            from tests.notifier.web.conftest import secret_on

            doctor.secret = secret_on(doctor.get("/enrol").text)
            doctor.post("/enrol", {"code": doctor.code()})
    for old in seen - {cookie.value}:
        doctor.client.cookies.clear()
        doctor.client.cookies.set("pn_session", old)
        assert doctor.get("/doctor").url.path == "/sign-in"


def test_an_invitation_serves_for_the_first_second_factor_only(new_person: NewPerson):
    doctor = new_person()
    other = doctor.invite()
    doctor.enrol()
    doctor.forget()
    assert doctor.post(other).status_code == 410


def test_staff_cannot_enrol_without_a_password(new_person: NewPerson):
    staff = new_person(Role.OPERATOR)
    staff.post(staff.invite())
    assert heading(staff.get("/enrol")) == "Choisissez un mot de passe"
    assert staff.post("/enrol", {"code": "123456"}).url.path == "/enrol"
    for wrong in ("short", "aaaaaaaaaaaaaaaaaa"):
        assert staff.post("/enrol/password", {"password": wrong, "again": wrong}).status_code == 422
    differ = staff.post("/enrol/password", {"password": PASSWORD, "again": "x" + PASSWORD})
    assert (differ.status_code, heading(differ)) == (422, "Choisissez un mot de passe")


@pytest.mark.parametrize(
    "asked",
    [
        "https://evil.example", "//evil.example", "/\\evil.example", "\\/evil.example", "javascript:alert(1)",
        "/\t/evil.example", "http:evil.example", "///evil.example", "/%0d%0aSet-Cookie:x=1", "", "evil",
    ],
)  # fmt: skip
def test_signing_in_leads_nowhere_else(signed_in: NewPerson, asked: str):
    staff = signed_in(Role.OPERATOR)
    staff.post("/sign-out")
    staff.post("/sign-in/staff", {"email": staff.email, "password": PASSWORD, "next": asked})
    answer = staff.post("/second-factor", {"code": staff.code(), "next": asked}, follow_redirects=False)
    assert answer.status_code == 303
    to = answer.headers["location"]
    assert to.startswith("/")
    assert not to.startswith(("//", "/\\"))
    assert "\n" not in to


def test_an_expired_page_leads_back_to_where_one_was(signed_in: NewPerson):
    staff = signed_in(Role.OPERATOR)
    staff.forget()
    asked = staff.get("/operations?page=2", follow_redirects=False)
    assert asked.headers["location"] == "/sign-in?next=/operations%3Fpage%3D2"


def test_sessions_are_listed_and_ended(signed_in: NewPerson, stranger: Stranger):
    here = signed_in(Role.OPERATOR)
    there = stranger()
    there.account_id, there.email, there.secret = here.account_id, here.email, here.secret
    agent = {"User-Agent": "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:140.0) Gecko/20100101 Firefox/140.0"}
    there.client.headers.update(agent)
    there.post("/sign-in/staff", {"email": here.email, "password": PASSWORD})
    there.post("/second-factor", {"code": there.code()})
    assert heading(there.get("/operations")) == "Exploitation"
    page = here.get("/account").text
    assert "Firefox, Windows" in page
    assert page.count('/end"') == 1
    assert here.post("/account/sessions/end-others").status_code == 200
    assert there.get("/operations").url.path == "/sign-in"
    assert heading(here.get("/operations")) == "Exploitation"


def test_nobody_ends_another_ones_session(signed_in: NewPerson, database: Database):
    mine, other = signed_in(), signed_in(Role.OPERATOR)
    with database.staff() as session:
        number = session.scalar(
            text("SELECT id FROM web_session WHERE account_id = :id AND stage = 'full'"), {"id": other.account_id}
        )
    assert mine.post(f"/account/sessions/{number}/end").status_code == 404
    assert other.get("/operations").url.path == "/operations"


@pytest.mark.parametrize("act", [accounts.disable, accounts.reset_second_factor, accounts.revoke_sessions])
def test_what_operations_take_away_ends_at_once(signed_in: NewPerson, database: Database, act: Callable):
    doctor = signed_in()
    with database.staff() as session:
        act(session, doctor.account_id, actor="cli:test", now=datetime.now(UTC))
    assert doctor.get("/doctor").url.path == "/sign-in"


def test_new_recovery_codes_need_the_app_and_replace_the_old(signed_in: NewPerson):
    doctor = signed_in()
    assert doctor.post("/account/recovery-codes", {"code": "000000"}).status_code == 422
    from tests.notifier.web.conftest import codes_on

    made = codes_on(doctor.post("/account/recovery-codes", {"code": doctor.code()}).text)
    assert len(made) == accounts.RECOVERY_CODES
    assert not set(made) & set(doctor.codes)


def test_the_language_of_the_account_is_the_language_of_its_pages(signed_in: NewPerson):
    doctor = signed_in()
    doctor.post("/account/language", {"language": "en"})
    assert heading(doctor.get("/doctor")) == "Your patients to be told"
    assert doctor.post("/account/language", {"language": "../en"}).status_code == 404


def test_what_is_no_address_is_said_at_once(stranger: Stranger):
    answer = stranger().post("/sign-in", {"email": "cabinet"})
    assert answer.status_code == 422
    assert 'aria-invalid="true"' in answer.text
