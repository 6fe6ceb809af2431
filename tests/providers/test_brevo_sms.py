"""SMS by Brevo's API over real HTTP: what is asked, what answers and receipts mean."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path

import orjson
import pytest
from openapi_schema_validator import OAS30Validator

from notifier.notices import Frozen
from notifier.providers.base import Blame, Event, Kind, Message, Outcome
from notifier.providers.brevo_sms import BrevoSmsProvider, BrevoSmsReceipts
from notifier.settings import BrevoSms
from tests.providers.conftest import brevo

MESSAGE = Message(
    reference="7.abcdefgh",
    recipient="+33639980001",
    content=Frozen("", "Dr Exemple vous informe : vos données ont été copiées.", ""),
    language="fr",
)


def answered(
    status: int, body: object = None, headers: dict[str, str] | None = None
) -> tuple[Outcome, list[dict]]:
    """The outcome of one request to a server that gives this answer, and the requests it saw."""

    async def go() -> tuple[Outcome, list[dict]]:
        async with brevo((status, body, headers or {})) as server:
            settings = BrevoSms(base_url=server.base_url, api_key="made-up", sender="InfoSante", timeout_s=5)
            one = BrevoSmsProvider(settings, lambda reference: f"http://127.0.0.1/webhooks/brevo-sms/{reference}")
            await one.open()
            outcome = await one.send(MESSAGE)
            await one.close()
            return outcome, server.asked

    return asyncio.run(go())


def test_an_accepted_sms_carries_our_reference_for_its_receipts_and_nothing_else_about_the_person():
    outcome, [request] = answered(201, {"reference": "r", "messageId": 1511882900176220})
    assert (outcome.kind, outcome.provider_message_id) == (Kind.ACCEPTED, "1511882900176220")
    assert request["key"] == "made-up"
    assert request["body"] == {
        "sender": "InfoSante",
        "recipient": "33639980001",
        "content": MESSAGE.text,
        "type": "transactional",
        "tag": "notice",
        "unicodeEnabled": False,
        "webUrl": "http://127.0.0.1/webhooks/brevo-sms/7.abcdefgh",
    }


def test_the_request_is_what_brevos_own_description_asks_for(shared: Path):
    specification = json.loads((shared / "specs" / "brevo.json").read_text())
    _, [request] = answered(201, {"reference": "r", "messageId": 1})
    schema = specification["components"]["schemas"]["sendTransacSms"]
    assert not list(OAS30Validator(schema).iter_errors(request["body"]))


@pytest.mark.parametrize(
    ("status", "body", "kind", "blame", "hold"),
    [
        (
            400,
            {"code": "invalid_parameter", "message": "Invalid telephone number"},
            Kind.REFUSED,
            Blame.PERSON,
            False,
        ),
        (400, {"code": "invalid_parameter", "message": "sender is not valid"}, Kind.REFUSED, Blame.OURS, False),
        (401, {"code": "unauthorized", "message": "Key not found"}, Kind.REFUSED, Blame.OURS, True),
        (402, {"code": "not_enough_credits", "message": "no credit"}, Kind.REFUSED, Blame.OURS, True),
        (403, {"code": "permission_denied", "message": "no"}, Kind.REFUSED, Blame.OURS, True),
        (429, "<html>too many</html>", Kind.REFUSED, Blame.THROTTLED, True),
        (503, {"code": "unavailable", "message": "come back later"}, Kind.REFUSED, Blame.LATER, False),
        (500, {"code": "bad_request", "message": "internal"}, Kind.REFUSED, Blame.LATER, False),
        (500, "<html>internal server error</html>", Kind.UNKNOWN, None, False),
        (502, "<html>bad gateway</html>", Kind.UNKNOWN, None, False),
        (502, {"code": 502, "message": "a gateway that speaks JSON"}, Kind.UNKNOWN, None, False),
        (503, "<html>first byte timeout</html>", Kind.UNKNOWN, None, False),
        (503, {"message": "no code"}, Kind.UNKNOWN, None, False),
        (504, "<html>gateway time-out</html>", Kind.UNKNOWN, None, False),
        (520, "error code: 520", Kind.UNKNOWN, None, False),
        (418, "[]", Kind.REFUSED, Blame.OURS, False),
        (302, "", Kind.REFUSED, Blame.OURS, False),
        (408, "", Kind.REFUSED, Blame.LATER, False),
        (400, {"code": "not_enough_credits", "message": "recipient"}, Kind.REFUSED, Blame.OURS, True),
        (400, {"code": "bad_request", "message": "number of requests"}, Kind.REFUSED, Blame.OURS, False),
        (200, "<html>please log in to the hospital's network</html>", Kind.UNKNOWN, None, False),
        (204, "", Kind.UNKNOWN, None, False),
    ],
)
def test_answers(status: int, body: object, kind: Kind, blame: Blame | None, hold: bool):
    outcome, _ = answered(status, body)
    assert (outcome.kind, outcome.blame, outcome.hold) == (kind, blame, hold)


def test_a_gateway_that_says_when_to_come_again_may_have_passed_the_request_on():
    """Varnish says so in each page of its own, also after it waited in vain for an answer."""
    outcome, _ = answered(503, "<html>Backend fetch failed</html>", {"retry-after": "5"})
    assert (outcome.kind, outcome.blame) == (Kind.UNKNOWN, None)


def test_a_throttled_request_waits_as_long_as_brevo_says():
    outcome, _ = answered(429, {}, {"x-sib-ratelimit-limit": "150", "x-sib-ratelimit-reset": "7"})
    assert outcome.retry_after is not None
    assert outcome.retry_after.total_seconds() == 7


@pytest.mark.parametrize(
    ("word", "event"),
    [
        ("accepted", Event.NOTED),
        ("sent", Event.SENT),
        ("delivered", Event.DELIVERED),
        ("softBounces", Event.SOFT_FAILED),
        ("soft_bounce", Event.SOFT_FAILED),
        ("hardBounces", Event.HARD_FAILED),
        ("hard_bounce", Event.HARD_FAILED),
        ("blocked", Event.HARD_FAILED),
        ("rejected", Event.SOFT_FAILED),
        ("replied", Event.NOTED),
        ("unsubscribe", Event.NOTED),
        ("a word of next year", Event.NOTED),
    ],
)
def test_receipts(word: str, event: Event):
    body = orjson.dumps({"msg_status": word, "messageId": 42, "ts_event": 1764036000})
    [receipt] = BrevoSmsReceipts().parse_receipts("7.abcdefgh", body)
    assert (receipt.event, receipt.reference, receipt.provider_message_id) == (event, "7.abcdefgh", "42")
    assert receipt.at == datetime.fromtimestamp(1764036000, UTC)


def test_several_events_may_come_at_once():
    events = [{"event": word, "messageId": 1, "ts_epoch": 1764036000123} for word in ("sent", "delivered")]
    assert [receipt.code for receipt in BrevoSmsReceipts().parse_receipts("r", orjson.dumps(events))] == [
        "sent",
        "delivered",
    ]


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"7", b'"x"', b"[1]", b"{}", b'{"msg_status":"sent"}', b'{"ts":1}']
)
def test_what_is_no_receipt_is_refused(body: bytes):
    with pytest.raises(ValueError):
        BrevoSmsReceipts().parse_receipts("r", body)
