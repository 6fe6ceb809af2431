"""The HTTP client against servers that misbehave: what surely did not arrive, what may have, and nothing twice."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from notifier.errors import SettingsError
from notifier.providers import http
from notifier.providers.http import HttpClient, NoAnswer, NotSent
from notifier.providers.http_answer import Response
from tests.providers.conftest import raw_server, read_request

OK = b"HTTP/1.1 201 Created\r\ncontent-length: 2\r\n\r\n{}"
Run = Callable[[Awaitable[None]], None]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """The worker's loop is uvloop where there is one, asyncio's own elsewhere."""
    return {"asyncio": asyncio.run, "uvloop": uvloop.run}[request.param]


class Server:
    """Answers the first connections as the scripts say, later ones as the last; counts what it was sent."""

    def __init__(self, *scripts: Callable[[Server, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]):
        self.scripts = scripts
        self.connections = 0
        self.bodies: list[bytes] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        script = self.scripts[min(self.connections, len(self.scripts) - 1)]
        self.connections += 1
        try:
            await script(self, reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()

    async def take(self, reader: asyncio.StreamReader) -> None:
        self.bodies.append(await read_request(reader))


async def good(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        await server.take(reader)
        writer.write(OK)


def saying(answer: bytes, *, then_close: bool):
    """One request is read and answered so; then the connection is closed, or stays silent."""

    async def script(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.take(reader)
        writer.write(answer)
        if not then_close:
            await reader.read()

    return script


def client(port: int, **changes: object) -> HttpClient:
    values = {"connections": 4, "timeout_s": 5} | changes
    return HttpClient(f"http://127.0.0.1:{port}/v3/x", {"api-key": "made-up"}, **values)


def test_a_request_says_what_it_must_and_the_connection_is_kept(run: Run):
    heads: list[bytes] = []

    async def script(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            heads.append(await reader.readuntil(b"\r\n\r\n"))
            await reader.readexactly(3)
            writer.write(OK)

    async def go() -> None:
        server = Server(script)
        async with raw_server(server) as port:
            one = client(port)
            for _ in range(3):
                assert await one.post(b"abc") == Response(201, {b"content-length": b"2"}, b"{}")
            await one.close()
            assert server.connections == 1
            host = f"127.0.0.1:{port}".encode()
            assert heads[0].split(b"\r\n") == [
                b"POST /v3/x HTTP/1.1",
                b"host: " + host,
                b"user-agent: patient-notifier",
                b"api-key: made-up",
                b"content-length: 3",
                b"",
                b"",
            ]

    run(go())


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 201 Created\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}",
        b"HTTP/1.0 201 Created\r\ncontent-length: 2\r\n\r\n{}",
        OK + b"HTTP/1.1 500 for nobody\r\ncontent-length: 0\r\n\r\n",
    ],
)
def test_a_connection_that_cannot_be_kept_is_not(run: Run, answer: bytes):
    async def go() -> None:
        server = Server(saying(answer, then_close=False))
        async with raw_server(server) as port:
            one = client(port)
            assert [(await one.post(b"1")).status, (await one.post(b"2")).status] == [201, 201]
            assert server.connections == 2
            assert server.bodies == [b"1", b"2"]
            await one.close()

    run(go())


def test_an_answer_without_a_length_ends_with_its_connection(run: Run):
    async def go() -> None:
        async with raw_server(Server(saying(b"HTTP/1.1 201 Created\r\n\r\n{}", then_close=True))) as port:
            assert (await client(port).post(b"1")).body == b"{}"

    run(go())


def test_no_connection_means_not_sent(run: Run):
    async def go() -> None:
        async with raw_server(Server(good)) as port:
            pass
        with pytest.raises(NotSent):
            await client(port).post(b"1")

    run(go())


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 201 Created\r\n",
        b"HTTP/1.1 201 Created\r\ncontent-length: 100\r\n\r\n{",
        b"HTTP/1.1 201 Created\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"220 smtp.example.org\r\n\r\n",
        b"HTTP/1.1 201 Created\r\nx: " + b"x" * 70_000,
        b"HTTP/1.1 201 Created\r\ncontent-length: 999999999\r\n\r\n",
    ],
)
def test_a_request_that_was_read_but_not_answered_may_have_arrived(run: Run, answer: bytes):
    async def go() -> None:
        server = Server(saying(answer, then_close=True))
        async with raw_server(server) as port:
            with pytest.raises(NoAnswer) as caught:
                await client(port).post(b"1")
            assert not caught.value.idle
            assert server.bodies == [b"1"], "sent once"

    run(go())


def test_a_late_answer_is_nobody_elses(run: Run):
    gave_up = asyncio.Event()

    async def late(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.take(reader)
        await gave_up.wait()
        writer.write(b"HTTP/1.1 500 Late\r\ncontent-length: 0\r\n\r\n")
        await reader.read()

    async def go() -> None:
        server = Server(late, good)
        async with raw_server(server) as port:
            one = client(port, timeout_s=0.05)
            with pytest.raises(NoAnswer, match="timeout"):
                await one.post(b"1")
            gave_up.set()
            assert (await one.post(b"2")).status == 201
            assert server.bodies == [b"1", b"2"]
            await one.close()

    run(go())


def test_a_caller_that_goes_away_leaves_no_answer_to_the_next(run: Run):
    async def go() -> None:
        read = asyncio.Event()

        async def silent(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await server.take(reader)
            read.set()
            await reader.read()

        server = Server(silent, good)
        async with raw_server(server) as port:
            one = client(port)
            task = asyncio.create_task(one.post(b"1"))
            await read.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert (await one.post(b"2")).status == 201
            assert server.connections == 2
            await one.close()

    run(go())


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\n\r\n"])
def test_a_connection_closed_while_idle_is_replaced(run: Run, said: bytes, monkeypatch: pytest.MonkeyPatch):
    async def go() -> None:
        closed, lost = asyncio.Event(), asyncio.Event()
        original = http._Connection.connection_lost

        def connection_lost(self: http._Connection, error: Exception | None) -> None:
            original(self, error)
            lost.set()

        monkeypatch.setattr(http._Connection, "connection_lost", connection_lost)

        async def script(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await server.take(reader)
            writer.write(OK)
            await closed.wait()
            writer.write(said)

        server = Server(script, good)
        async with raw_server(server) as port:
            one = client(port)
            await one.post(b"1")
            closed.set()
            await lost.wait()
            assert (await one.post(b"2")).status == 201
            assert server.bodies == [b"1", b"2"]
            await one.close()

    run(go())


def test_a_kept_connection_closed_under_a_request_is_told_apart(run: Run):
    """It may have been read all the same: only who has a key may ask again."""

    async def script(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.take(reader)
        writer.write(OK)
        await server.take(reader)

    async def go() -> None:
        server = Server(script)
        async with raw_server(server) as port:
            one = client(port)
            await one.post(b"1")
            with pytest.raises(NoAnswer) as caught:
                await one.post(b"2")
            assert caught.value.idle
            assert server.bodies == [b"1", b"2"], "sent once"

    run(go())


def test_a_fresh_connection_can_be_asked_for(run: Run):
    async def go() -> None:
        server = Server(good)
        async with raw_server(server) as port:
            one = client(port)
            await one.post(b"1")
            await one.post(b"2", fresh=True)
            assert server.connections == 2
            await one.close()

    run(go())


def test_a_connection_idle_for_long_is_not_used_again(run: Run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(http, "IDLE_S", -1.0)

    async def go() -> None:
        server = Server(good)
        async with raw_server(server) as port:
            one = client(port)
            await one.post(b"1")
            await one.post(b"2")
            assert server.connections == 2
            await one.close()

    run(go())


def test_an_answer_before_the_request_is_read_counts_and_its_connection_is_dropped(run: Run):
    async def refuse(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 0\r\n\r\n")
        await done.wait()

    done = asyncio.Event()

    async def go() -> None:
        server = Server(refuse, good)
        async with raw_server(server) as port:
            one = client(port)
            assert (await one.post(b"x" * 30_000_000)).status == 413
            assert (await one.post(b"2")).status == 201
            assert (server.connections, server.bodies) == (2, [b"2"])
            done.set()
            await one.close()

    run(go())


def test_one_request_at_a_time_on_a_connection_and_no_more_connections_than_allowed(run: Run):
    async def go() -> None:
        most = 0

        async def script(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal most
            while True:
                await server.take(reader)
                most = max(most, len(reader._buffer))  # type: ignore[attr-defined]  # a second request, unasked
                await asyncio.sleep(0)
                writer.write(OK)

        server = Server(script)
        async with raw_server(server) as port:
            one = client(port, connections=3)
            answers = await asyncio.gather(*(one.post(b"%d" % number) for number in range(50)))
            assert {answer.status for answer in answers} == {201}
            assert sorted(server.bodies, key=int) == [b"%d" % number for number in range(50)]
            assert most == 0
            assert server.connections <= 3
            await one.close()

    run(go())


def test_closing_lets_a_request_in_flight_end(run: Run):
    async def go() -> None:
        read, answer = asyncio.Event(), asyncio.Event()

        async def script(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await server.take(reader)
            read.set()
            await answer.wait()
            writer.write(OK)
            assert await reader.read() == b"", "closed by the client"
            closed.set()

        closed = asyncio.Event()
        async with raw_server(Server(script)) as port:
            one = client(port)
            task = asyncio.create_task(one.post(b"1"))
            await read.wait()
            await one.close()
            answer.set()
            assert (await task).status == 201
            await closed.wait()

    run(go())


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of this machine's loopback address, signed by itself, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "provider.example.org")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return path


@pytest.mark.parametrize("trusted", [True, False])
def test_tls_is_spoken_with_a_server_that_proves_its_name_only(
    run: Run, certificate: Path, trusted: bool, monkeypatch: pytest.MonkeyPatch
):
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))

    async def go() -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server = Server(good)
        listening = await asyncio.start_server(server, "127.0.0.1", 0, ssl=context)
        port = listening.sockets[0].getsockname()[1]
        one = HttpClient(f"https://127.0.0.1:{port}/v3/x", {}, connections=1, timeout_s=5)
        if trusted:
            assert [(await one.post(b"1")).status, (await one.post(b"2")).status] == [201, 201]
            assert server.connections == 1
        else:
            with pytest.raises(NotSent, match="SSLCertVerificationError"):
                await one.post(b"1")
            assert server.bodies == []
        await one.close()
        listening.close()

    run(go())


@pytest.mark.parametrize(
    "url", ["", "api.example.org/v3", "ftp://api.example.org", "https://", "http://127.0.0.1:port/v3"]
)
def test_an_address_that_is_none_is_refused_at_the_start(url: str):
    with pytest.raises(SettingsError, match="base_url"):
        HttpClient(url, {}, connections=1, timeout_s=1)


@pytest.mark.parametrize("key", ["a\r\nx-more: 1", "clé", "a\x00"])
def test_a_key_that_could_end_its_header_is_refused_without_repeating_it(key: str):
    with pytest.raises(SettingsError) as caught:
        HttpClient("https://api.example.org/v3", {"api-key": key}, connections=1, timeout_s=1)
    assert key not in str(caught.value)
