"""Following what happens, by a cursor, by a stream, and by messages to a real server on this machine."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address

import orjson
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text

from notifier import controlling, feed
from notifier.api import following
from notifier.api.caller import Answer, Caller, is_public
from notifier.settings import Settings
from notifier.store import Database
from tests.factories import make_settings
from tests.notifier.api.conftest import World
from tests.notifier.test_sending import settle


def test_a_program_goes_on_from_its_cursor(doctor: TestClient, other_doctor: TestClient, world: World) -> None:
    start = doctor.get("/api/v1/changes").json()
    assert start["campaigns"] == []
    doctor.post(f"/api/v1/campaigns/{world.mine}/pause", json={"reason": "a test"})
    answer = doctor.get("/api/v1/changes", params={"after": start["next"]}).json()
    assert [(one["campaign"], one["state"]) for one in answer["campaigns"]] == [(world.mine, "paused")]
    assert other_doctor.get("/api/v1/changes", params={"after": start["next"]}).json()["campaigns"] == []
    assert doctor.get("/api/v1/changes", params={"after": "nonsense"}).status_code == 422
    assert doctor.get("/api/v1/changes", params={"wait": 3600}).status_code == 422


def test_who_waits_is_told_when_it_happens(doctor: TestClient, database: Database, world: World) -> None:
    start = doctor.get("/api/v1/changes").json()["next"]

    def pause() -> None:
        with database.staff() as session:
            controlling.pause(session, world.mine, actor="cli:test", reason="a test")

    acting = threading.Timer(0.3, pause)
    acting.start()
    answer = doctor.get("/api/v1/changes", params={"after": start, "wait": 25}).json()
    acting.join()
    assert [one["state"] for one in answer["campaigns"]] == ["paused"]


@pytest.mark.parametrize("encoding", ["gzip", "identity"])
def test_a_campaign_is_streamed_with_an_end_that_says_it_is_whole(
    doctor: TestClient, world: World, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "_AT_ONCE", 2)  # several pieces
    url = f"/api/v1/campaigns/{world.mine}/export"
    with doctor.stream("GET", url, headers={"Accept-Encoding": encoding}) as answer:
        # by the client's own way of unpacking, which stops after one member
        lines = [orjson.loads(line) for line in b"".join(answer.iter_bytes()).splitlines()]
    assert (answer.headers.get("content-encoding") == "gzip") == (encoding == "gzip")
    assert lines[-1] == {"end": True, "patients": 3}
    assert sorted(len(line["deliveries"]) for line in lines[:-1]) == [1, 1, 1]


# --- callbacks -------------------------------------------------------------------------------------------


@dataclass
class Customer:
    """A customer's server: keeps what it was sent, and answers as told."""

    url: str
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    status: int = 200
    came: threading.Condition = field(default_factory=threading.Condition)

    def wait(self, messages: int) -> None:
        with self.came:
            assert self.came.wait_for(lambda: len(self.got) >= messages, 30)


@pytest.fixture
def customer() -> Iterator[Customer]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            with found.came:
                found.got.append(({name.lower(): value for name, value in self.headers.items()}, body))
                found.came.notify_all()
            self.send_response(found.status)
            self.send_header("Location", "http://127.0.0.1:1/elsewhere")
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found = Customer(f"http://127.0.0.1:{server.server_port}/in?key=1")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield found
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def private(database_url: str) -> Settings:
    return make_settings(database_url, callbacks={"allow_private": True, "timeout_s": 10})


Making = Callable[[str], tuple[int, bytes]]


@pytest.fixture
def make(database: Database, private: Settings, world: World) -> Making:
    def callback(url: str) -> tuple[int, bytes]:
        with database.staff() as session:
            made, secret = feed.create(
                session, private.master, url, world.doctor, actor="cli:test", allow_private=True
            )
            return made.id, base64.b64decode(secret.removeprefix("whsec_"))

    return callback


def call_while(private: Settings, database: Database, act: Callable[[], None]) -> None:
    """Runs the caller as a server does, until `act` has come back."""

    async def both() -> None:
        running = asyncio.create_task(Caller(private, database).run())
        await asyncio.to_thread(act)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(both())


def test_a_change_reaches_the_customer_signed_and_names_nobody(
    database: Database, private: Settings, world: World, make: Making, customer: Customer
) -> None:
    _, secret = make(customer.url)
    slow, _ = make("http://127.0.0.1:1/nobody-listens")
    with database.staff() as session:
        controlling.cancel(session, world.mine, actor="cli:test", reason="a test", now=datetime.now(UTC))
    settle(database, private)

    def taken() -> None:
        customer.wait(1)
        while True:
            with database.staff() as session:
                codes = dict(tuple(row) for row in session.execute(text("SELECT id, last_code FROM callback")))
            if all(codes.values()):
                assert codes[slow] == "connect_failed", "one that is away stops no other"
                return
            threading.Event().wait(0.05)

    call_while(private, database, taken)
    headers, body = customer.got[0]
    signed = b".".join((headers["webhook-id"].encode(), headers["webhook-timestamp"].encode(), body))
    expected = base64.b64encode(hmac.digest(secret, signed, hashlib.sha256)).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"
    [campaign] = json.loads(body)["data"]["campaigns"]
    assert campaign["state"] == "cancelled"
    assert [one["outcome"] for one in campaign["patients"]] == ["unreached"] * 3
    assert b"Nom1" not in body
    assert b"example.org" not in body
    assert len(customer.got) == 1, "what was taken is not told again"


def test_what_is_not_taken_comes_again_under_the_same_name(
    database: Database, private: Settings, world: World, make: Making, customer: Customer
) -> None:
    make(customer.url)
    customer.status = 302
    with database.staff() as session:
        controlling.pause(session, world.mine, actor="cli:test", reason="a test")
    call_while(private, database, lambda: customer.wait(3))
    assert len({headers["webhook-id"] for headers, _ in customer.got}) == 1
    assert all(headers["host"].startswith("127.0.0.1") for headers, _ in customer.got), "no redirect is followed"


@pytest.mark.parametrize(
    "host", ["localhost", "127.0.0.1", "[::1]", "10.1.2.3", "169.254.169.254", "[::ffff:127.0.0.1]", "0.0.0.0"]
)
def test_an_address_inside_is_never_called(current: Settings, database: Database, host: str) -> None:
    call = feed.Call(1, f"https://{host}:9/", "msg_1", {}, b"x", feed.START, feed.START, has_more=False)
    assert asyncio.run(Caller(current, database).ping(call)) == Answer("private_address")


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1:248:1893:25c8:1946", True),
        ("192.168.1.1", False),
        ("100.64.0.1", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("fd00::1", False),
        ("fe80::1", False),
        ("ff02::1", False),
        ("64:ff9b::a00:1", False),
        ("64:ff9b::5db8:d822", True),
        ("2002:7f00:1::", False),
        ("fec0::1", False),
        ("64:ff9b:1::5db8:d822", False),
        ("3fff::1", False),
        ("::ffff:10.0.0.1", False),
    ],
)
def test_what_is_public(address: str, expected: bool) -> None:
    assert is_public(ip_address(address)) is expected


def test_the_test_button_says_how_it_ended(operations: TestClient, customer: Customer) -> None:
    made = operations.post("/api/v1/callbacks", json={"url": "https://localhost/x"}).json()
    assert made["secret"].startswith("whsec_")
    answer = operations.post(f"/api/v1/callbacks/{made['id']}/test").json()
    assert answer == {"code": "private_address", "taken": False}
    assert "secret" not in operations.get(f"/api/v1/callbacks/{made['id']}").json()
    assert operations.post("/api/v1/callbacks", json={"url": "http://a.example/"}).status_code == 422
