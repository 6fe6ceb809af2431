"""What every provider promises, whatever it speaks; more about each stands in its own tests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest

from notifier.notices import Frozen
from notifier.providers.base import (
    AccountReceiptParser,
    BatchProvider,
    Blame,
    Kind,
    Message,
    Outcome,
    Provider,
    ReceiptParser,
    RepeatableProvider,
)
from notifier.providers.brevo_email import BrevoEmailProvider, BrevoEmailReceipts
from notifier.providers.brevo_sms import BrevoSmsProvider, BrevoSmsReceipts
from notifier.providers.smtp import SmtpProvider
from notifier.settings import BrevoEmail, BrevoSms, Smtp
from notifier.states import Channel
from tests.providers.conftest import raw_server, read_request

MESSAGE = Message(
    reference="7.abcdefgh",
    recipient="jeanne.exemple@example.org",
    content=Frozen("Vos données", "Bonjour \ue000Madame, Monsieur\ue001.", "<p>Bonjour \ue000Madame\ue001.</p>"),
    language="fr",
    name="Jeanne Exemple",
    sender_name="Dr Camille Exemple",
    reply_to="cabinet@example.org",
)


def smtp(port: int) -> Provider:
    return SmtpProvider(Smtp(port=port, security="none", timeout_s=1))


def brevo_email(port: int) -> Provider:
    return BrevoEmailProvider(BrevoEmail(base_url=f"http://127.0.0.1:{port}/v3", api_key="made-up", timeout_s=1))


def brevo_sms(port: int) -> Provider:
    settings = BrevoSms(base_url=f"http://127.0.0.1:{port}/v3", api_key="made-up", timeout_s=1)
    return BrevoSmsProvider(settings, lambda reference: f"http://127.0.0.1/webhooks/brevo-sms/{reference}")


ALL = [smtp, brevo_email, brevo_sms]
HTTP = [brevo_email, brevo_sms]
Maker = Callable[[int], Provider]


async def send(make: Maker, port: int, *, times: int = 1) -> Outcome:
    one = make(port)
    message = MESSAGE if one.channel is Channel.EMAIL else replace(MESSAGE, recipient="+33639980001")
    await one.open()
    try:
        for _ in range(times):
            outcome = await one.send(message)
    finally:
        await one.close()
    assert "jeanne" not in outcome.code.lower()
    assert "3998" not in outcome.code
    return outcome


def test_the_optional_parts_are_told_by_their_type():
    assert [isinstance(make(1), BatchProvider) for make in ALL] == [False, True, False]
    assert [isinstance(make(1), RepeatableProvider) for make in ALL] == [False, True, False]


def test_receipts_are_read_without_a_provider():
    by_message: ReceiptParser = BrevoSmsReceipts()
    by_account: AccountReceiptParser = BrevoEmailReceipts(BrevoEmail())
    assert (by_message.name, by_message.channel) == (brevo_sms(1).name, Channel.SMS)
    assert (by_account.name, by_account.channel) == (brevo_email(1).name, Channel.EMAIL)


@pytest.mark.parametrize("make", ALL)
def test_closing_twice_or_unopened_harms_nothing(make: Maker):
    async def go() -> None:
        await make(1).close()
        one = make(1)
        await one.open()
        await one.close()
        await one.close()

    asyncio.run(go())


@pytest.mark.parametrize("make", ALL)
def test_no_connection_means_not_sent_and_is_nobodys_fault(make: Maker):
    async def go() -> Outcome:
        async with raw_server(lambda reader, writer: asyncio.sleep(0)) as port:
            pass
        return await send(make, port)

    outcome = asyncio.run(go())
    assert (outcome.kind, outcome.blame, outcome.hold) == (Kind.REFUSED, Blame.THROTTLED, False)


@pytest.mark.parametrize("make", HTTP)
@pytest.mark.parametrize("ending", ["hangs up after reading", "never answers", "breaks off in its answer"])
def test_a_request_that_was_read_but_not_answered_is_uncertain(make: Maker, ending: str):
    """Believing it unsent would tell a person twice."""
    requests = 0

    async def half(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal requests
        await read_request(reader)
        requests += 1
        if ending == "never answers":
            await reader.read()
        if ending == "breaks off in its answer":
            writer.write(b"HTTP/1.1 201 Created\r\ncontent-length: 100\r\n\r\n{")
        writer.close()

    async def go() -> Outcome:
        async with raw_server(half) as port:
            return await send(make, port)

    outcome = asyncio.run(go())
    assert (outcome.kind, outcome.blame, requests) == (Kind.UNKNOWN, None, 1)


@pytest.mark.parametrize(
    ("make", "requests", "kind"), [(brevo_sms, 2, Kind.UNKNOWN), (brevo_email, 3, Kind.ACCEPTED)]
)
def test_a_kept_connection_closed_under_a_request_is_asked_again_only_with_a_key(
    make: Maker, requests: int, kind: Kind
):
    bodies: list[bytes] = []

    async def server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            try:
                bodies.append(await read_request(reader))
            except asyncio.IncompleteReadError:
                break
            if len(bodies) == 2:
                break
            writer.write(b'HTTP/1.1 201 Created\r\ncontent-length: 15\r\n\r\n{"messageId":1}')
        writer.close()

    async def go() -> Outcome:
        async with raw_server(server) as port:
            return await send(make, port, times=2)

    outcome = asyncio.run(go())
    assert (outcome.kind, len(bodies)) == (kind, requests)
    assert len(set(bodies)) == 1, "the very same request"
