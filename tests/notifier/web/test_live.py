"""Parts that move by themselves, as the standard says (WHATWG HTML §9.2), from the real server."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Engine, event, text
from sqlalchemy.exc import OperationalError
from starlette.responses import Response

from notifier import accounts, controlling
from notifier.accounts import Role
from notifier.api.server import Server
from notifier.models import Campaign
from notifier.settings import Settings
from notifier.store import Database
from notifier.web import live
from tests.factories import make_settings, person, start_campaign
from tests.notifier.web.conftest import NewPerson, Person
from tests.waiting import until


@pytest.fixture
def current(database_url: str) -> Settings:
    return make_settings(database_url, api_port=0, smtp={"port": 1, "security": "none"})


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same in a twentieth of the time."""
    for name in ("LOOK_S", "SESSIONS_S", "SOONEST_S", "ALIVE_S"):
        monkeypatch.setattr(live, name, getattr(live, name) / 20)


@pytest.fixture
def server(current: Settings) -> Iterator[Server]:
    ready = threading.Event()
    made = Server(current, lambda port: ready.set())
    thread = threading.Thread(target=made.serve_until_stopped)
    thread.start()
    assert ready.wait(60)
    yield made
    made.should_exit = True
    thread.join(60)
    assert not thread.is_alive()


@pytest.fixture
def stranger(database: Database, current: Settings) -> Callable[[], Person]:
    return lambda: Person(TestClient(lambda *_: None), database, current)


@pytest.fixture
def campaign(database: Database, current: Settings) -> Campaign:
    """One that sends to three people."""
    return start_campaign(database, current, [person(n) for n in range(1, 4)], 3)


class Stream:
    """A browser's side of a stream: what it was sent, block by block."""

    def __init__(self, answer: httpx.Response) -> None:
        self.answer = answer
        self._lines = answer.iter_lines()

    def block(self) -> dict[str, str]:
        """The next block; the lines of one field joined, a comment under "". Empty at the end."""
        found: dict[str, str] = {}
        for line in self._lines:
            if not line:
                return found
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            found[name] = f"{found[name]}\n{value}" if name in found else value
        return found

    def part(self, seen: list[dict[str, str]] | None = None) -> dict[str, str]:
        """The next block that shows something; what came before it goes to `seen`."""
        while block := self.block():
            if "event" not in block and "data" in block:
                return block
            if seen is not None:
                seen.append(block)
        raise AssertionError("the stream ended")


@pytest.fixture
def listen(server: Server) -> Iterator[Callable[..., Stream]]:
    limits = httpx.Limits(max_connections=None)
    with httpx.Client(
        base_url=f"http://127.0.0.1:{server.port}",
        timeout=30,
        verify=False,
        limits=limits,
    ) as client:

        def open_one(who: Person, path: str, **headers: str) -> Stream:
            headers["Cookie"] = f"pn_session={who.client.cookies['pn_session']}"
            return Stream(client.send(client.build_request("GET", path, headers=headers), stream=True))

        yield open_one


@pytest.fixture
def doctor(signed_in: NewPerson, campaign: Campaign) -> Person:
    return signed_in(doctor_id=campaign.doctor_id)


@pytest.fixture
def path(campaign: Campaign) -> str:
    return f"/doctor/campaigns/{campaign.id}/progress/numbers/live"


def change(database: Database, statement: str) -> None:
    with database.staff() as session:
        session.execute(text(statement))


INFORM = (
    "UPDATE patient SET outcome = 'informed', outcome_at = now() WHERE id = "
    "(SELECT min(id) FROM patient WHERE campaign_id = {} AND outcome = 'on_the_way')"
)


def test_the_part_is_pushed_when_it_has_changed_and_only_then(
    listen: Callable[..., Stream], doctor: Person, path: str, campaign: Campaign, database: Database
):
    stream = listen(doctor, path)
    assert stream.answer.headers["content-type"].startswith("text/event-stream")
    assert stream.answer.headers["cache-control"] == "no-store"
    assert stream.answer.headers["x-accel-buffering"] == "no"
    assert stream.answer.headers["content-security-policy"].startswith("default-src 'self'")
    before: list[dict[str, str]] = []
    first = stream.part(before)
    assert before[0]["retry"] == "2000"
    assert "<strong>0</strong><span>informées" in first["data"]
    assert "<html" not in first["data"]
    quiet = [stream.block() for _ in range(3)]
    assert [(block.get("event"), block.get("")) for block in quiet] == [("alive", "still here")] * 3
    assert "<time datetime=" in quiet[0]["data"]
    change(database, INFORM.format(campaign.id))
    second = stream.part()
    assert "<strong>1</strong><span>informées" in second["data"]
    assert second["id"] != first["id"]
    again = listen(doctor, path, **{"Last-Event-ID": second["id"]})
    came = [again.block() for _ in range(3)]
    assert [block.get("event") for block in came] == ["alive"] * 3, "who has it is not sent it again"


def test_a_message_that_moves_on_is_pushed_too(
    listen: Callable[..., Stream], doctor: Person, path: str, campaign: Campaign, database: Database
):
    stream = listen(doctor, path)
    stream.part()
    change(database, f"UPDATE delivery SET state = 'accepted', due_at = NULL WHERE campaign_id = {campaign.id}")
    assert '<td class="number">3</td>' in stream.part()["data"]
    with database.staff() as session:
        controlling.pause(session, campaign.id, actor="cli:test", reason="Wrong number")
    assert "Wrong number" in stream.part()["data"]


def test_what_operations_stop_is_said_to_the_doctor_whose_messages_it_stops(
    listen: Callable[..., Stream], doctor: Person, path: str, campaign: Campaign, database: Database
):
    stream = listen(doctor, path)
    assert "Les messages partent d’eux-mêmes" in stream.part()["data"]

    def hold(scope: str) -> None:
        with database.staff() as session:
            controlling.hold(session, scope, actor="cli:test", reason="Their own words", now=datetime.now(UTC))

    hold("channel:sms")
    part = stream.part()["data"]
    assert "Les opérateurs du service ont arrêté l’envoi des SMS le <time" in part
    assert "Les messages partent d’eux-mêmes" in part, "emails do"
    hold("everything")
    part = stream.part()["data"]
    assert "Les opérateurs du service ont arrêté tous les envois le <time" in part
    assert "partent d’eux-mêmes" not in part
    assert "Their own words" not in part
    with database.staff() as session:
        controlling.pause(session, campaign.id, actor="cli:test", reason="Wrong number")
        controlling.lift(session, "channel:sms", actor="cli:test")
    part = stream.part()["data"]
    assert "arrêté tous les envois" in part
    assert "ces messages partiront" not in part, "it is paused, too"
    change(database, "UPDATE hold SET until = now() - interval '1 second'")
    assert "arrêté" not in stream.part()["data"].replace("où il s’est arrêté", "")


#: revoked, idle, too old, disabled, in another role; and how it was before
ENDS = [
    ("web_session SET ended_at = now()", "web_session SET ended_at = NULL"),
    ("web_session SET seen_at = now() - interval '31 minutes'", "web_session SET seen_at = now()"),
    ("web_session SET created_at = now() - interval '13 hours'", "web_session SET created_at = now()"),
    ("account SET disabled_at = now()", "account SET disabled_at = NULL"),
    ("account SET role = 'secretary'", "account SET role = 'doctor'"),
]


def test_a_session_that_ends_ends_the_stream(
    listen: Callable[..., Stream], doctor: Person, path: str, database: Database
):
    for end, back in ENDS:
        stream = listen(doctor, path)
        stream.part()
        change(database, f"UPDATE {end}")
        while (block := stream.block()).get("event") == "alive":
            pass
        assert block == {"event": "over", "data": ""}, end
        assert stream.block() == {}
        if "role" not in end:
            assert listen(doctor, path).answer.status_code == 403, "a stream is not led to a page"
        change(database, f"UPDATE {back}")


def test_nobody_hears_of_anothers_campaign(
    listen: Callable[..., Stream], signed_in: NewPerson, doctors: tuple[int, int], path: str
):
    assert listen(signed_in(doctor_id=doctors[0]), path).answer.status_code == 404
    assert listen(signed_in(Role.OPERATOR), path).answer.status_code == 403


def test_an_open_page_does_not_keep_its_session_alive(
    listen: Callable[..., Stream], signed_in: NewPerson, server: Server, database: Database
):
    operator = signed_in(Role.OPERATOR)
    base, cookies = f"http://127.0.0.1:{server.port}", dict(operator.client.cookies)

    def seen_at(path: str, **headers: str) -> datetime:
        change(database, "UPDATE web_session SET seen_at = now() - interval '20 minutes'")
        if path.endswith("live"):
            listen(operator, path).part()
        else:
            assert httpx.get(base + path, cookies=cookies, headers=headers).status_code == 200
        with database.staff() as session:
            return session.execute(text("SELECT max(seen_at) FROM web_session")).scalar_one()

    long_ago = datetime.now(UTC) - timedelta(minutes=19)
    assert seen_at("/operations/now/live") < long_ago
    assert seen_at("/operations/now", **{"HX-Request": "true"}) < long_ago
    assert seen_at("/operations?alone=1") < long_ago, "without JavaScript the page renews itself"
    assert seen_at("/operations") > long_ago


def test_many_pages_cost_what_one_does_and_hold_neither_a_connection_nor_a_thread(
    listen: Callable[..., Stream],
    doctor: Person,
    path: str,
    campaign: Campaign,
    database: Database,
    server: Server,
):
    streams = [listen(doctor, path) for _ in range(20)]
    for stream in streams:
        stream.part()
    pages, asked = server.config.app.state.live, []
    threads = threading.active_count()
    pool = server.config.app.state.context.database.engine.pool

    def note(connection: object, cursor: object, statement: str, *rest: object) -> None:
        if threading.current_thread() is not threading.main_thread():
            asked.append(statement)

    assert len(pages) == 20
    event.listen(Engine, "before_cursor_execute", note)
    try:
        for _ in range(2):  # two times "alive" are five looks
            for stream in streams:
                stream.block()
        quiet = list(asked)
        change(database, INFORM.format(campaign.id))
        for stream in streams:
            assert "<strong>1</strong>" in stream.part()["data"]
    finally:
        event.remove(Engine, "before_cursor_execute", note)
    looks = [one for one in quiet if "AS mark" in one]
    assert 0 < len(looks) < 20
    made = [one for one in asked if "FROM patient_tally" in one and "AS mark" not in one]
    assert len(made) < 10, "made once, for all"
    assert pool.checkedout() <= 2
    assert threading.active_count() <= threads + 1
    for stream in streams:
        stream.answer.close()
    until(lambda: len(pages) == 0)  # who has left is forgotten


def test_a_database_that_is_away_is_not_called_fresh(
    listen: Callable[..., Stream], doctor: Person, path: str, server: Server, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(live, "_FRESH_S", 0.2)
    stream = listen(doctor, path)
    stream.part()
    database = server.config.app.state.context.database
    monkeypatch.setattr(database, "staff", Database("postgresql+psycopg://127.0.0.1:1/nothing").staff)
    while (block := stream.block()).get("event") == "alive":
        pass
    assert block == {"": "still here"}
    monkeypatch.undo()
    while stream.block().get("event") != "alive":
        pass


def test_one_part_that_fails_keeps_nobody_elses_from_moving_and_is_not_called_fresh(
    listen: Callable[..., Stream],
    doctor: Person,
    signed_in: NewPerson,
    path: str,
    campaign: Campaign,
    database: Database,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(live, "_FRESH_S", 0.4)
    monkeypatch.setattr(live, "_BUDGET_S", -1.0)  # one part a round: the failing one has the first turn
    operator = signed_in(Role.OPERATOR)
    failing, other = listen(operator, "/operations/now/live"), listen(doctor, path)
    failing.part()
    other.part()
    [part] = [one for key, one in server.config.app.state.live._parts.items() if key.role == Role.OPERATOR]
    make = part.make

    def fail(visit: object) -> Response:
        raise OperationalError("SELECT", {}, Exception("canceling statement due to statement timeout"))

    part.make = fail
    still = {"": "still here"}
    assert still in (failing.block() for _ in range(30)), "old figures are called fresh"
    change(database, INFORM.format(campaign.id))
    assert any("<strong>1</strong>" in other.block().get("data", "") for _ in range(30)), "kept from its turn"
    assert "alive" in (other.block().get("event") for _ in range(30))
    assert failing.block() == still
    part.make = make
    while failing.block().get("event") != "alive":
        pass


def test_the_operators_figures_are_pushed(
    listen: Callable[..., Stream], signed_in: NewPerson, campaign: Campaign, database: Database
):
    stream = listen(signed_in(Role.OPERATOR), "/operations/now/live")
    assert "Le distributeur n’a jamais été vu" in stream.part()["data"]
    change(database, "INSERT INTO heartbeat (process) VALUES ('feeder')")
    while "Le distributeur n’a jamais été vu" in stream.part()["data"]:
        pass


def test_a_server_that_stops_does_not_wait_for_open_pages(
    listen: Callable[..., Stream], doctor: Person, path: str, server: Server
):
    stream = listen(doctor, path)
    stream.part()
    server.should_exit = True
    while block := stream.block():
        assert block["event"] == "alive"
    # The end is a regular one, and `server` sees to it that its thread ends.


def test_head_of_a_stream_ends(doctor: Person, path: str, server: Server):
    answer = httpx.head(f"http://127.0.0.1:{server.port}{path}", cookies=dict(doctor.client.cookies))
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")


def test_a_session_in_another_stage_has_no_role(new_person: NewPerson, database: Database, current: Settings):
    half = new_person(Role.DOCTOR)
    now = datetime.now(UTC)
    with database.staff() as session:
        account = accounts.find(session, half.account_id)
        accounts.open_session(session, account, accounts.Stage.SECOND_FACTOR, accounts.Source(), now=now)
        ids = list(session.execute(text("SELECT id FROM web_session")).scalars())
        assert accounts.roles_of(session, ids, now=now, web=current.web) == {}
