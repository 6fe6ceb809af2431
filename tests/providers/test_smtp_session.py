"""SMTP with PIPELINING (RFC 2920): one write for the envelope, and every refusal ends at the right person."""

from __future__ import annotations

import asyncio
import functools

import pytest

from notifier.providers.base import STOPPED, Blame, Kind, Outcome
from notifier.providers.smtp import SmtpProvider
from notifier.settings import Smtp
from tests.providers.conftest import raw_server
from tests.providers.test_smtp import message, send


class Server:
    """A server that pipelines, refuses whom it is told to, and remembers the bodies it took and by whom."""

    def __init__(self, *, refuse: set[bytes] = frozenset(), goes_on: bool = True, pipelining: bool = True) -> None:
        self.refuse = refuse
        #: whether it answers 354 to DATA although nobody is left (both are allowed, RFC 2920 §3.1)
        self.goes_on = goes_on
        self.pipelining = pipelining
        self.taken: list[tuple[bytes, bytes]] = []
        self.reads: list[bytes] = []
        self.connections = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        writer.write(b"220 here\r\n")
        buffer, recipient, in_body, mail = b"", None, False, False
        while data := await reader.read(65536):
            self.reads.append(data)
            buffer += data
            while True:
                if in_body:
                    end = 0 if buffer.startswith(b".\r\n") else buffer.find(b"\r\n.\r\n") + 2
                    if end == 1:
                        break
                    body, buffer, in_body = buffer[:end], buffer[end + 3 :], False
                    if recipient is None:
                        writer.write(b"554 5.5.1 no valid recipients\r\n")
                    else:
                        self.taken.append((recipient, body))
                        writer.write(b"250 2.0.0 Ok: queued as A1B2C3\r\n")
                    recipient, mail = None, False
                    continue
                line, found, rest = buffer.partition(b"\r\n")
                if not found:
                    break
                buffer = rest
                word = line[:4].upper()
                if word == b"EHLO":
                    writer.write(
                        b"250-here\r\n250-PIPELINING\r\n250 8BITMIME\r\n" if self.pipelining else b"250 here\r\n"
                    )
                elif word == b"MAIL":
                    # A second MAIL without RSET is a sequence error (RFC 5321 §4.1.4).
                    writer.write(b"503 5.5.1 nested MAIL\r\n" if mail else b"250 2.1.0 fine\r\n")
                    mail = True
                elif word == b"RSET":
                    mail, recipient = False, None
                    writer.write(b"250 2.0.0 fine\r\n")
                elif word == b"RCPT":
                    address = line[line.index(b"<") + 1 : line.index(b">")]
                    if address in self.refuse:
                        writer.write(b"550 5.1.1 no such mailbox\r\n")
                    else:
                        recipient = address
                        writer.write(b"250 2.1.5 fine\r\n")
                elif word == b"DATA":
                    in_body = recipient is not None or self.goes_on
                    writer.write(b"354 go\r\n" if in_body else b"554 5.5.1 no valid recipients\r\n")
                elif word == b"QUIT":
                    writer.write(b"221 bye\r\n")
                    writer.close()
                    return
        writer.close()


def run(server: Server, *numbers: int) -> list[Outcome]:
    async def go() -> list[Outcome]:
        async with raw_server(server.serve) as port:
            return await send(port, *(message(number) for number in numbers), connections=1)

    return asyncio.run(go())


def test_an_envelope_goes_out_in_one_write():
    server = Server()
    assert [outcome.kind for outcome in run(server, 1, 2)] == [Kind.ACCEPTED, Kind.ACCEPTED]
    envelopes = [data for data in server.reads if data.startswith(b"MAIL")]
    assert len(envelopes) == 2
    assert all(b"RCPT TO" in data and data.endswith(b"DATA\r\n") for data in envelopes)
    assert server.connections == 1


@pytest.mark.parametrize("goes_on", [True, False])
@pytest.mark.parametrize("pipelining", [True, False])
def test_a_refused_recipient_ends_at_that_person_and_the_next_message_at_the_next(goes_on: bool, pipelining: bool):
    server = Server(refuse={b"patient2@example.org"}, goes_on=goes_on, pipelining=pipelining)
    outcomes = run(server, 1, 2, 3)
    assert [outcome.kind for outcome in outcomes] == [Kind.ACCEPTED, Kind.REFUSED, Kind.ACCEPTED]
    assert (outcomes[1].blame, outcomes[1].code) == (Blame.PERSON, "smtp_550_5.1.1")
    assert [recipient for recipient, _ in server.taken] == [b"patient1@example.org", b"patient3@example.org"]
    for recipient, body in server.taken:
        number = recipient.removeprefix(b"patient").removesuffix(b"@example.org")
        assert b"<" + number + b".abcdefgh@example.net>" in body
    assert server.connections == 1
    assert outcomes[0].provider_message_id == "A1B2C3"


def test_a_server_that_hangs_up_in_the_middle_of_an_envelope_has_taken_nothing():
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 here\r\n")
        await reader.readline()
        writer.write(b"250-here\r\n250 PIPELINING\r\n")
        await reader.readuntil(b"DATA\r\n")
        writer.write(b"250 fine\r\n")
        writer.close()

    async def go() -> list[Outcome]:
        async with raw_server(hang_up) as port:
            return await send(port)

    [outcome] = asyncio.run(go())
    assert (outcome.kind, outcome.blame) == (Kind.REFUSED, Blame.THROTTLED)


def test_a_server_that_says_goodbye_between_two_messages_is_not_taken_for_an_answer():
    """421 and a closed connection while idle: the next message goes over a new connection."""
    server = Server()
    served = 0

    async def tired(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal served
        served += 1
        if served > 1:
            await server.serve(reader, writer)
            return
        writer.write(b"220 here\r\n")
        await reader.readline()
        writer.write(b"250-here\r\n250 PIPELINING\r\n")
        await reader.readuntil(b"DATA\r\n")
        writer.write(b"250 fine\r\n250 fine\r\n354 go\r\n")
        await reader.readuntil(b"\r\n.\r\n")
        writer.write(b"250 2.0.0 taken\r\n421 4.3.2 shutting down\r\n")
        writer.close()

    async def go() -> list[Outcome]:
        async with raw_server(tired) as port:
            return await send(port, message(1), message(2), connections=1)

    first, second = asyncio.run(go())
    assert first.kind is Kind.ACCEPTED
    assert second.kind is Kind.ACCEPTED or second.blame is Blame.THROTTLED, (
        "never a false accept, never a person's fault"
    )
    assert len(server.taken) == (second.kind is Kind.ACCEPTED)


def test_a_reply_that_never_ends_is_cut():
    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 here\r\n")
        await reader.readline()
        writer.write(b"250-here\r\n250 PIPELINING\r\n")
        await reader.readuntil(b"DATA\r\n")
        while not writer.is_closing():
            writer.write(b"250-" + b"x" * 1000 + b"\r\n")
            try:
                await writer.drain()
            except ConnectionError:
                return

    async def go() -> list[Outcome]:
        async with raw_server(endless) as port:
            return await send(port)

    [outcome] = asyncio.run(go())
    assert (outcome.kind, outcome.blame) == (Kind.REFUSED, Blame.THROTTLED)


def started(server: Server, *numbers: int, may_go=lambda number: True) -> list[Outcome]:
    """As a lane does it: the next message begins as soon as one is decided."""

    async def go() -> list[Outcome]:
        async with raw_server(server.serve) as port:
            values = {"port": port, "security": "none", "timeout_s": 2, "sender": "notice@example.net"}
            provider = SmtpProvider(Smtp.model_validate(values | {"connections": 1}))
            await provider.open()
            endings = [
                await provider.start(message(number), functools.partial(may_go, number)) for number in numbers
            ]
            outcomes = list(await asyncio.gather(*endings))
            await provider.close()
            return outcomes

    return asyncio.run(go())


def test_the_next_envelope_travels_with_the_body_before_it():
    server = Server()
    outcomes = started(server, 1, 2, 3)
    assert [outcome.kind for outcome in outcomes] == [Kind.ACCEPTED] * 3
    assert [recipient for recipient, _ in server.taken] == [b"patient%d@example.org" % n for n in (1, 2, 3)]
    together = [data for data in server.reads if b"\r\n.\r\nMAIL FROM" in data]
    assert len(together) == 2
    assert server.connections == 1


@pytest.mark.parametrize("pipelining", [True, False])
def test_a_refusal_in_a_row_of_messages_is_its_own_and_nobody_elses(pipelining: bool):
    server = Server(refuse={b"patient2@example.org"}, pipelining=pipelining)
    outcomes = started(server, 1, 2, 3, 4)
    assert [outcome.blame for outcome in outcomes] == [None, Blame.PERSON, None, None]
    assert [recipient for recipient, _ in server.taken] == [b"patient%d@example.org" % n for n in (1, 3, 4)]
    for recipient, body in server.taken:
        number = recipient.removeprefix(b"patient").removesuffix(b"@example.org")
        assert b"<" + number + b".abcdefgh@example.net>" in body


@pytest.mark.parametrize("pipelining", [True, False])
def test_what_is_stopped_before_its_body_leaves_the_server_with_nothing(pipelining: bool):
    server = Server(pipelining=pipelining)
    outcomes = started(server, 1, 2, 3, may_go=lambda number: number != 2)
    assert outcomes[0].kind is Kind.ACCEPTED
    assert outcomes[1] is STOPPED
    assert outcomes[2].kind is Kind.ACCEPTED, "over a new connection"
    assert [recipient for recipient, _ in server.taken] == [b"patient1@example.org", b"patient3@example.org"]
