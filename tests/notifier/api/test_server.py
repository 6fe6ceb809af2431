"""The server as a process: it says its port, refuses what is too large before reading it, and stops when told."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from notifier.api.server import Server, serve
from notifier.errors import ServiceError
from notifier.settings import Settings
from notifier.store import Database
from tests.conftest import MASTER_KEY
from tests.factories import make_settings
from tests.notifier.api.conftest import World, count


@pytest.fixture
def port(database_url: str) -> Iterator[int]:
    """A server on loopback, in a thread."""
    ports: list[int] = []
    ready = threading.Event()

    def note(number: int) -> None:
        ports.append(number)
        ready.set()

    server = Server(make_settings(database_url, api_port=0, max_list_bytes=100_000), note)
    thread = threading.Thread(target=server.serve_until_stopped)
    thread.start()
    assert ready.wait(60)
    yield ports[0]
    server.should_exit = True
    thread.join(60)


def test_a_list_that_is_too_large_is_refused_before_it_is_sent(
    port: int, operations: Any, world: World, database: Database
) -> None:
    head = (
        f"POST /api/v1/campaigns/{world.others}/lists HTTP/1.1\r\nHost: x\r\n"
        f"Authorization: {operations.headers['authorization']}\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 2000000000\r\n\r\n"
    )
    assert said(port, head.encode()).startswith(b"HTTP/1.1 413 ")
    assert count(database, "list_file") == 2


def test_a_list_that_grows_too_large_is_refused_on_the_way(
    port: int, operations: Any, world: World, database: Database
) -> None:
    def endless() -> Iterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="l.csv"\r\n\r\nemail\n'
        for _ in range(20):
            yield b"a" * 20_000

    answer = httpx.post(
        f"http://127.0.0.1:{port}/api/v1/campaigns/{world.others}/lists",
        content=endless(),
        headers={
            "Authorization": operations.headers["authorization"],
            "Content-Type": "multipart/form-data; boundary=b",
        },
        timeout=60,
        trust_env=False,
    )
    assert (answer.status_code, answer.headers["content-type"]) == (413, "application/problem+json")
    assert count(database, "list_file") == 2


def test_without_a_key_no_byte_of_a_list_is_read(port: int, world: World) -> None:
    head = (
        f"POST /api/v1/campaigns/{world.others}/lists HTTP/1.1\r\nHost: x\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 90000\r\n\r\n"
    )
    assert said(port, head.encode()).startswith(b"HTTP/1.1 401 ")


def test_no_byte_of_what_is_no_form_is_read(port: int, operations: Any, world: World) -> None:
    for kind in ("text/csv", "application/json", "multipart/mixed; boundary=b"):
        head = (
            f"POST /api/v1/campaigns/{world.others}/lists HTTP/1.1\r\nHost: x\r\n"
            f"Authorization: {operations.headers['authorization']}\r\n"
            f"Content-Type: {kind}\r\nContent-Length: 90000\r\n\r\n"
        )
        assert said(port, head.encode()).startswith(b"HTTP/1.1 415 "), kind


def test_a_body_of_two_lengths_is_refused(port: int) -> None:
    head = (
        "POST /api/v1/incidents HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    answer = said(port, head.encode())
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"connection: close" in answer.lower()
    assert b"x-content-type-options" in answer.lower()


def test_head_has_the_headers_of_get(port: int) -> None:
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
        for path in ("/healthz", "/openapi.json"):
            head = client.head(path)
            assert (head.status_code, head.content) == (200, b"")
            assert head.headers["content-length"] == client.get(path).headers["content-length"]


def test_the_server_does_not_say_what_it_is(port: int) -> None:
    answer = httpx.get(f"http://127.0.0.1:{port}/healthz", trust_env=False)
    assert answer.json() == {"status": "ok"}
    assert "server" not in answer.headers
    assert answer.headers["x-content-type-options"] == "nosniff"


def said(port: int, request: bytes) -> bytes:
    """The first bytes of the answer to a request whose body never comes."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(request)
        return connection.recv(4096)


def test_a_port_that_is_taken_is_said_plainly(current: Settings, database_url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = make_settings(database_url, api_port=taken.getsockname()[1])
        with pytest.raises(ServiceError, match="NOTIFIER_API_PORT"):
            serve(settings)


def start(**environment: str) -> subprocess.Popen[str]:
    values = {"NOTIFIER_MASTER_KEY": MASTER_KEY, "NOTIFIER_API_PORT": "0", **environment}
    return subprocess.Popen(
        [sys.executable, "-m", "notifier.api"], stderr=subprocess.PIPE, text=True, env=os.environ | values
    )


def test_the_process_serves_until_sigterm_and_ends_well(database_url: str) -> None:
    process = start(DATABASE_URL=database_url)
    assert process.stderr is not None
    line = json.loads(process.stderr.readline())
    assert line["event"] == "api_ready"
    address = f"http://127.0.0.1:{line['port']}"
    assert httpx.get(f"{address}/readyz", trust_env=False).json() == {"status": "ready"}
    assert httpx.get(f"{address}/api/v1/patients/4711", trust_env=False).status_code == 401
    process.send_signal(signal.SIGTERM)
    _, rest = process.communicate(timeout=60)
    assert process.returncode == 0
    logged = [json.loads(entry) for entry in rest.splitlines()]
    assert [(entry["path"], entry["status"]) for entry in logged if entry["event"] == "request"] == [
        ("/api/v1/patients/{patient_id}", 401)
    ]


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"}, "PostgreSQL does not answer"),
        ({}, "DATABASE_URL is not set"),
        ({"NOTIFIER_API_PRT": "1"}, "there is no such setting"),
    ],
)
def test_what_is_wrong_at_start_is_said_in_a_sentence(environment: dict[str, str], words: str) -> None:
    process = start(**environment)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 1
    assert words in error
    assert "Traceback" not in error
