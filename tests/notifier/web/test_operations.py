"""The operators' pages: what they say, who may act, and that every act has a reason and stands in the journal."""

from __future__ import annotations

import re
from html import unescape

import pytest
from sqlalchemy import text

from notifier.accounts import Role
from notifier.models import Campaign, Delivery, Hold, Journal
from notifier.settings import Settings
from notifier.states import Delivery as State
from notifier.store import Database
from notifier.web.operations.chart import lines, nice
from tests.factories import person, start_campaign
from tests.notifier.web.conftest import NewPerson, Person, heading

REASON = "a doubt about the relay"


@pytest.fixture
def running(database: Database, current: Settings) -> int:
    """A campaign that sends."""
    return start_campaign(database, current, [person(number) for number in range(1, 6)], number=7).id


@pytest.fixture
def operator(signed_in: NewPerson, running: int) -> Person:
    return signed_in(Role.OPERATOR, language="en")


def run(database: Database, statement: str, **values: object) -> None:
    with database.staff() as session:
        session.execute(text(statement), values)


def first(database: Database, running: int, channel: str = "email") -> int:
    with database.staff() as session:
        return (
            session.query(Delivery)
            .filter_by(campaign_id=running, channel=channel)
            .order_by(Delivery.id)
            .first()
            .id
        )


def set_state(database: Database, number: int, state: State, reason: str = "smtp_550_5.1.1") -> None:
    run(
        database,
        "UPDATE delivery SET state = :state, reason = :reason, due_at = NULL WHERE id = :id",
        state=state, reason=reason, id=number,
    )  # fmt: skip


def journal(database: Database) -> list[tuple[str, str, str | None]]:
    with database.staff() as session:
        entries = session.query(Journal).order_by(Journal.id).all()
    return [
        (one.action, one.subject, one.detail.get("reason")) for one in entries if one.actor.startswith("user:")
    ]


def plain(page: str) -> str:
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", page)))


# --- one page that says how all stands -----------------------------------------------------------------


def test_the_page_says_first_what_is_wrong_and_what_to_do(operator: Person):
    said = plain(operator.get("/operations").text)
    assert "No worker is at work. Start one: notifier worker." in said
    assert "The feeder was never seen. Start it: notifier feeder." in said
    assert said.index("No worker is at work") < said.index("The last hour")
    assert "Nothing goes out although messages wait" in said


def test_the_page_tells_rate_errors_and_workers(operator: Person, database: Database, running: int):
    run(database, "INSERT INTO heartbeat (process) VALUES ('feeder'), ('sweeper'), ('worker:email+sms:h:1:a')")
    run(
        database,
        "INSERT INTO pace VALUES (now(), 'h:1:a', 'smtp', 'orange', 'accepted', 'ok', 900), "
        "(now(), 'h:1:a', 'smtp', 'orange', 'refused', 'smtp_550_5.1.1', 100)",
    )
    page = operator.get("/operations").text
    said = plain(page)
    assert "Sending" in said
    assert "No worker is at work" not in said
    assert re.search(r"smtp orange 900 100 0 10.0 smtp_550_5.1.1 × 100", said), said
    assert "worker:email+sms:h:1:a" in said
    assert "was not given to" not in said
    run(database, "INSERT INTO heartbeat (process, keys) VALUES ('control:h:2:b', '00000000')")
    assert re.search(
        "key [0-9a-f]{8} was not given to control:h:2:b. What it seals waits",
        plain(operator.get("/operations").text),
    )
    assert f'href="/operations/campaigns/{running}"' in page
    assert "style=" not in page, "the policy of the pages forbids it"


@pytest.mark.parametrize("role", [Role.APPROVER, Role.AUDITOR])
def test_who_only_looks_is_offered_nothing_to_do(
    signed_in: NewPerson, running: int, database: Database, role: Role
):
    reader = signed_in(role, language="en")
    number = first(database, running)
    set_state(database, number, State.QUARANTINED)
    run(database, "INSERT INTO hold (scope, reason, by) VALUES ('channel:sms', 'x', 'cli:anna')")
    for path in (
        "/operations", "/operations/now", "/operations/campaigns", f"/operations/campaigns/{running}",
        f"/operations/campaigns/{running}/deliveries", "/operations/set-aside", "/operations/failed",
        f"/operations/deliveries/{number}",
    ):  # fmt: skip
        answer = reader.get(path)
        assert answer.status_code == 200, path
        assert not re.search(r"/operations/(stop|go|again)/|/(pause|resume|cancel|contact)\"", answer.text), path


def test_a_campaign_that_is_paused_and_a_breaker_are_named(operator: Person, database: Database, running: int):
    run(
        database,
        "UPDATE campaign SET state = 'paused', reason = 'is it the right list?' WHERE id = :id",
        id=running,
    )
    run(
        database,
        "INSERT INTO breaker (scope, state, level, failures, reason) VALUES ('receiver:orange', 'open', 0, 1, 'half')",
    )
    page = operator.get("/operations").text
    assert "Campaigns paused: 1 (is it the right list?)" in plain(page)
    assert 'href="/operations/go/receiver:orange"' in page


# --- acts ----------------------------------------------------------------------------------------------


def test_stopping_everything_asks_for_a_reason_and_is_journalled(operator: Person, database: Database):
    assert heading(operator.get("/operations/stop/everything")) == "Stop everything?"
    assert operator.post("/operations/stop/everything").status_code == 422
    answer = operator.post("/operations/stop/everything", {"reason": REASON})
    assert answer.url.path == "/operations"
    assert "All sending is stopped." in plain(answer.text)
    with database.staff() as session:
        held = session.get_one(Hold, "everything")
        assert (held.reason, held.by, held.until) == (REASON, f"user:{operator.account_id}", None)
    operator.post("/operations/go/everything", {"reason": "mended"})
    with database.staff() as session:
        assert session.get(Hold, "everything") is None
    assert journal(database)[-2:] == [
        ("hold.set", "everything", REASON), ("hold.lift", "everything", "mended"),
    ]  # fmt: skip


@pytest.mark.parametrize("scope", ["channel:sms", "provider:smtp"])
def test_a_part_is_stopped_and_let_go(operator: Person, database: Database, scope: str):
    operator.post(f"/operations/stop/{scope}", {"reason": REASON})
    assert f'href="/operations/go/{scope}"' in operator.get("/operations").text
    operator.post(f"/operations/go/{scope}", {"reason": REASON})
    assert f'href="/operations/stop/{scope}"' in operator.get("/operations").text
    assert operator.get(f"/operations/go/{scope}").status_code == 404


@pytest.mark.parametrize("scope", ["x", "channel:fax", "campaign:1", "receiver:orange"])
def test_what_cannot_be_stopped_is_not_found(operator: Person, scope: str):
    assert operator.post(f"/operations/stop/{scope}", {"reason": REASON}).status_code == 404


def test_a_breaker_is_closed(operator: Person, database: Database):
    run(
        database,
        "INSERT INTO breaker (scope, state, level, failures, reason) VALUES ('receiver:orange', 'open', 0, 1, 'x')",
    )
    assert heading(operator.get("/operations/go/receiver:orange")).startswith("Close the breaker")
    assert operator.post("/operations/go/receiver:orange", {"reason": REASON}).status_code == 200
    assert operator.get("/operations/go/receiver:orange").status_code == 404


def test_a_campaign_is_paused_resumed_and_cancelled_with_a_reason(
    operator: Person, database: Database, running: int
):
    page = f"/operations/campaigns/{running}"
    for what, state in (("pause", "paused"), ("resume", "sending"), ("cancel", "cancelled")):
        assert operator.get(f"{page}/{what}").status_code == 200
        assert operator.post(f"{page}/{what}", {"reason": " "}).status_code == 422
        assert operator.post(f"{page}/{what}", {"reason": REASON}).status_code == 200
        with database.staff() as session:
            assert session.get_one(Campaign, running).state == state
        assert journal(database)[-1] == (f"campaign.{what}", f"campaign:{running}", REASON)
    again = operator.post(f"{page}/resume", {"reason": REASON})
    assert again.status_code == 409
    assert "This is not possible now." in plain(again.text)


def test_an_act_is_no_get(operator: Person, database: Database, running: int):
    for path in ("/operations/stop/everything", f"/operations/campaigns/{running}/pause"):
        operator.get(path + "?reason=x")
    with database.staff() as session:
        assert session.query(Hold).count() == 0
        assert session.get_one(Campaign, running).state == "sending"


def test_what_was_set_aside_is_released_or_given_up(operator: Person, database: Database, running: int):
    number, other = first(database, running), first(database, running) + 1
    for one in (number, other):
        set_state(database, one, State.QUARANTINED, "crashed")
    page = operator.get("/operations/set-aside").text
    assert f'value="{number}"' in page
    asked = operator.get(f"/operations/again/release?id={number}")
    assert heading(asked) == "Release 1?"
    assert operator.post("/operations/again/release", {"id": str(number), "reason": REASON}).status_code == 200
    assert operator.post("/operations/again/give_up", {"id": str(other), "reason": REASON}).status_code == 200
    with database.staff() as session:
        assert session.get_one(Delivery, number).state == State.PENDING
        assert session.get_one(Delivery, other).state == State.FAILED
    acts = [action for action, _, _ in journal(database)]
    assert acts[-2:] == ["quarantine.release", "quarantine.give_up"]


def test_failed_ones_are_sent_again_by_code_and_others_left_alone(
    operator: Person, database: Database, running: int
):
    number = first(database, running)
    set_state(database, number, State.FAILED, "smtp_535")
    set_state(database, number + 1, State.FAILED, "smtp_550_5.1.1")
    assert f"/operations/campaigns/{running}" in operator.get("/operations/failed").text
    assert "smtp_535" in operator.get(f"/operations/campaigns/{running}").text
    asked = {"campaign": str(running), "code": "smtp_535"}
    assert heading(operator.get(f"/operations/again/replay?campaign={running}&code=smtp_535")) == "Send 1 again?"
    operator.post("/operations/again/replay", asked | {"reason": REASON})
    with database.staff() as session:
        assert session.get_one(Delivery, number).state == State.PENDING
        assert session.get_one(Delivery, number + 1).state == State.FAILED
    assert operator.post("/operations/again/replay", asked | {"reason": REASON}).status_code == 409


def test_what_may_have_arrived_goes_out_again_only_if_it_is_said(
    operator: Person, database: Database, running: int
):
    number = first(database, running)
    set_state(database, number, State.FAILED, "no_receipt")
    values = {"id": str(number), "reason": REASON}
    assert operator.post("/operations/again/replay", values).status_code == 409
    assert operator.post("/operations/again/replay", values | {"twice": "1"}).status_code == 200
    with database.staff() as session:
        assert session.get_one(Delivery, number).possibly_twice


@pytest.mark.parametrize("query", ["", "?id=x", "?id=-1", "?campaign=x", "?id=9999999999999999999999"])
def test_nothing_chosen_is_said(operator: Person, query: str):
    assert operator.get(f"/operations/again/release{query}").status_code == 422


# --- down to one delivery --------------------------------------------------------------------------------


def test_campaigns_are_found_by_state_and_by_doctor(operator: Person, running: int):
    assert f'/operations/campaigns/{running}"' in operator.get("/operations/campaigns?state=sending").text
    assert f'/operations/campaigns/{running}"' not in operator.get("/operations/campaigns?state=draft").text
    assert f'/operations/campaigns/{running}"' in operator.get("/operations/campaigns?doctor=10000000007").text
    assert operator.get(f"/operations/find?what=campaign&number={running}").url.path.endswith(f"/{running}")
    assert operator.get("/operations/find?number=x").status_code == 404


def test_lists_come_in_pages(operator: Person, database: Database, running: int, monkeypatch: pytest.MonkeyPatch):
    from notifier.web.operations import down

    monkeypatch.setattr(down, "PAGE", 2)
    path, seen = f"/operations/campaigns/{running}/deliveries?state=pending", []
    while path:
        page = operator.get(path).text
        seen += re.findall(r'href="/operations/deliveries/(\d+)"', page)
        more = re.search(r'href="([^"]+after=\d+)"', page)
        path = unescape(more[1]) if more else ""
    with database.staff() as session:
        expected = session.query(Delivery).filter_by(campaign_id=running, state="pending").count()
    assert len(seen) == len(set(seen)) == expected > 2


def test_a_delivery_shows_its_life_and_nobody(operator: Person, database: Database, running: int):
    number = first(database, running)
    run(
        database,
        "INSERT INTO attempt (delivery_id, fence, doctor_id, provider, notice_id, ended_at, outcome, code) "
        "SELECT id, 1, doctor_id, 'smtp', 1, now(), 'refused', 'smtp_450_4.2.2' FROM delivery WHERE id = :id",
        id=number,
    )
    run(
        database,
        "INSERT INTO receipt (delivery_id, campaign_id, doctor_id, provider, event, code, event_at, dedup, effect) "
        "SELECT id, campaign_id, doctor_id, 'smtp', 'bounced', 'soft', now(), '\\x01', 'retry' FROM delivery WHERE id = :id",
        id=number,
    )
    operator.post("/operations/stop/everything", {"reason": REASON})
    page = operator.get(f"/operations/deliveries/{number}").text
    said = plain(page)
    for expected in (
        "Try 1: handed to smtp", "Try 1: refused by smtp smtp_450_4.2.2",
        "Receipt of smtp: bounced; the state becomes retry soft", f"all sending: {REASON}", "row 2 of the list",
    ):  # fmt: skip
        assert expected in said, said
    assert "example.org" not in page
    assert "Nom1" not in page


def test_a_contact_is_shown_once_with_a_reason_and_the_journal_knows(
    operator: Person, database: Database, running: int
):
    number = first(database, running)
    path = f"/operations/deliveries/{number}"
    refused = operator.post(f"{path}/contact")
    assert refused.status_code == 422
    assert "patient1@example.org" not in refused.text
    answer = operator.post(f"{path}/contact", {"reason": "the receiver's postmaster asks"})
    assert "patient1@example.org" in answer.text
    assert answer.headers["cache-control"] == "no-store"
    assert "patient1@example.org" not in operator.get(path).text
    assert journal(database)[-1] == ("contact.unmasked", f"delivery:{number}", "the receiver's postmaster asks")
    assert "contact.unmasked" in operator.get(path).text, "and it is a part of the delivery's life"


def test_the_contact_of_erased_people_stays_hidden(operator: Person, database: Database, running: int):
    number = first(database, running)
    run(database, "UPDATE campaign SET data_key = NULL WHERE id = :id", id=running)
    answer = operator.post(f"/operations/deliveries/{number}/contact", {"reason": REASON})
    assert answer.status_code == 409
    assert ("contact.unmasked", f"delivery:{number}", REASON) not in journal(database)


# --- the chart --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("value", "top"), [(0, 1), (0.3, 0.5), (1, 1), (7, 10), (11, 20), (501, 1000)])
def test_the_scale_ends_at_a_round_number(value: float, top: float):
    assert nice(value) == pytest.approx(top)


def test_a_name_in_the_chart_cannot_break_out_of_it():
    drawn = lines({'"><script>': [0, 1]}, '"><script>', "a", "b")
    assert "<script>" not in drawn
