"""Email through a real SMTP server: accepted, the person's fault, later, or uncertain, and never a crash."""

from __future__ import annotations

import asyncio

import pytest

from notifier.notices import Frozen
from notifier.providers.base import Blame, Kind, Message, Outcome
from notifier.providers.smtp import SmtpProvider, _queue_id
from notifier.settings import Smtp
from notifier.states import Channel
from tests.providers.conftest import inbox, raw_server


def message(number: int = 1, **changes: str) -> Message:
    values = {
        "reference": f"{number}.abcdefgh",
        "recipient": f"patient{number}@example.org",
        "subject": "Information importante",
        "text": "Vos données ont été copiées.\n.\nfin\n",
        "html": "<p>Vos données ont été copiées.</p>",
        "language": "fr",
        "sender_name": "Cabinet Exemple",
    }
    values |= changes
    content = Frozen(*(values.pop(part) for part in ("subject", "text", "html")))
    return Message(content=content, **values)


async def send(port: int, *messages: Message, **settings: object) -> list[Outcome]:
    values = {"port": port, "security": "none", "timeout_s": 2, "sender": "notice@example.net"}
    provider = SmtpProvider(Smtp.model_validate(values | settings))
    await provider.open()
    outcomes = await asyncio.gather(*(provider.send(one) for one in messages or (message(),)))
    await provider.close()
    return list(outcomes)


def test_an_accepted_message_is_in_the_inbox_once_with_its_own_id():
    async def go():
        async with inbox() as (server, port):
            [outcome] = await send(port)
            [taken] = server.ledger.since(0, 10)
            return outcome, taken, server.ledger.count(Channel.EMAIL, "patient1@example.org")

    outcome, taken, count = asyncio.run(go())
    assert (outcome.kind, outcome.code) == (Kind.ACCEPTED, "accepted")
    assert count == 1
    assert "<1.abcdefgh@example.net>" in taken.content


@pytest.mark.parametrize(
    ("reply", "known"),
    [
        ("2.0.0 Ok: queued as 4XyZ12abc", "4XyZ12abc"),
        ("OK id=1tFg2h-0001Ab-CD", "1tFg2h-0001Ab-CD"),
        ("2.0.0 Ok: queued as 4XyZ12abc.", "4XyZ12abc"),
        ("2.0.0 Ok: delivered to <patient1@example.org>", None),
        ("thank you, patient1@example.org", None),
        ("OK id=patient1@example.org", None),
        ("OK id=patient.1980@example.org taken", None),
        ("Message accepted: Camille", None),
        ("2.0.0 Ok: queued as 4XyZ12abc@relay.example.net", None),
    ],
)
def test_only_the_queue_id_of_a_reply_is_kept_in_clear(reply: str, known: str | None):
    assert _queue_id(reply) == known


def test_many_messages_share_few_connections_and_each_arrives_once():
    async def go():
        async with inbox() as (server, port):
            outcomes = await send(
                port, *(message(n) for n in range(150)), connections=4, messages_per_connection=20
            )
            return outcomes, [server.ledger.count(Channel.EMAIL, f"patient{n}@example.org") for n in range(150)]

    outcomes, counts = asyncio.run(go())
    assert {outcome.kind for outcome in outcomes} == {Kind.ACCEPTED}
    assert counts == [1] * 150


def test_an_unknown_mailbox_is_the_persons_and_the_connection_goes_on():
    async def go():
        async with inbox(refused_contacts=["patient1@example.org"]) as (server, port):
            outcomes = await send(port, message(1), message(2), connections=1)
            return outcomes, server.ledger.total(Channel.EMAIL)

    outcomes, total = asyncio.run(go())
    assert [outcome.kind for outcome in outcomes] == [Kind.REFUSED, Kind.ACCEPTED]
    assert outcomes[0].blame is Blame.PERSON
    assert outcomes[0].code.startswith("smtp_550")
    assert "patient1" not in outcomes[0].code
    assert total == 1


def test_a_reply_lost_after_the_final_dot_is_uncertain_although_the_server_has_it():
    async def go():
        async with inbox(lost_reply=1) as (server, port):
            outcomes = await send(port)
            return outcomes, server.ledger.count(Channel.EMAIL, "patient1@example.org")

    [outcome], count = asyncio.run(go())
    assert outcome.kind is Kind.UNKNOWN
    assert count == 1


def test_a_refused_sender_is_ours():
    async def go():
        async with inbox(sender_refused=True) as (_, port):
            return await send(port)

    [outcome] = asyncio.run(go())
    assert (outcome.kind, outcome.blame) == (Kind.REFUSED, Blame.OURS)


def test_a_relay_that_is_down_costs_nobody_a_try():
    async def go():
        async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.close()

        async with raw_server(hang_up) as port:
            return await send(port)

    [outcome] = asyncio.run(go())
    assert (outcome.kind, outcome.blame) == (Kind.REFUSED, Blame.THROTTLED)


@pytest.mark.parametrize("stage", ["banner", "rcpt", "dot"])
def test_a_server_that_stops_answering_ends_in_time_and_truly(stage: str):
    """Silent before the body: not sent. Silent after the final dot: uncertain."""

    async def quiet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if stage == "banner":
            await reader.read()
            return
        writer.write(b"220 here\r\n")
        in_body = False
        while line := await reader.readline():
            if in_body:
                if line == b".\r\n":
                    break
                continue
            if stage == "rcpt" and line.upper().startswith(b"RCPT"):
                break
            in_body = line.upper().startswith(b"DATA")
            writer.write(b"354 go\r\n" if in_body else b"250 fine\r\n")
        await reader.read()

    async def go():
        async with raw_server(quiet) as port:
            return await send(port, timeout_s=0.5)

    [outcome] = asyncio.run(go())
    assert outcome.kind is (Kind.UNKNOWN if stage == "dot" else Kind.REFUSED)
    if stage != "dot":
        assert outcome.blame is Blame.THROTTLED


def test_a_relay_without_tls_is_not_used_in_clear_when_tls_was_asked_for():
    async def go():
        async with inbox() as (server, port):
            outcomes = await send(port, security="starttls")
            return outcomes, server.ledger.total(Channel.EMAIL)

    [outcome], total = asyncio.run(go())
    assert outcome.kind is Kind.REFUSED
    assert total == 0


def test_an_address_that_would_change_the_envelope_never_reaches_the_server():
    async def go():
        async with inbox() as (server, port):
            outcomes = await send(port, message(1, recipient="a@example.org>\r\nRCPT TO:<b@example.org"))
            return outcomes, server.ledger.total(Channel.EMAIL)

    [outcome], total = asyncio.run(go())
    assert (outcome.kind, outcome.blame, total) == (Kind.REFUSED, Blame.PERSON, 0)


@pytest.mark.parametrize("stage", ["greeting", "login", "recipient"])
def test_a_reply_in_another_encoding_can_be_kept_like_any_other(stage: str):
    """An older French relay says "accès refusé" in Latin-1: the attempt is written down all the same."""
    refusal = "refusé, accès interdit".encode("latin-1")

    async def old_relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"554 " + refusal + b"\r\n" if stage == "greeting" else b"220 relay\r\n")
        while line := await reader.readline():
            if line.upper().startswith(b"EHLO"):
                writer.write(b"250-relay\r\n250 AUTH PLAIN\r\n")
            elif line.upper().startswith(b"AUTH"):
                writer.write(b"535 5.7.8 " + refusal + b"\r\n" if stage == "login" else b"235 2.7.0 ok\r\n")
            elif line.upper().startswith(b"RCPT"):
                writer.write(b"550 5.1.1 " + refusal + b"\r\n")
            else:
                writer.write(b"250 2.0.0 ok\r\n")
        writer.close()

    async def go() -> list[Outcome]:
        async with raw_server(old_relay) as port:
            return await send(port, username="someone", password="made-up")

    [outcome] = asyncio.run(go())
    assert outcome.kind is Kind.REFUSED
    assert b"refus" in outcome.raw.encode()
