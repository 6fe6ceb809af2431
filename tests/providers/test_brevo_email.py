"""Email by Brevo's API over real HTTP: the requests, one by one and in batches, and what answers and receipts mean."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest
from openapi_schema_validator import OAS30Validator

from notifier.notices import Frozen
from notifier.providers import brevo_email
from notifier.providers.base import Blame, Event, Kind, Message, Outcome
from notifier.providers.brevo_email import BrevoEmailProvider, BrevoEmailReceipts
from notifier.settings import BrevoEmail
from tests.providers.conftest import Brevo, brevo

TEXT = "Bonjour \ue000Madame, Monsieur\ue001,\nvos « données » ont été \\copiées\\."
HTML = '<p class="x">Bonjour \ue000Madame, Monsieur\ue001,</p>\n<p>données</p>'
MESSAGE = Message(
    reference="7.abcdefgh",
    recipient="jeanne@example.org",
    content=Frozen('Vos "données"', TEXT, HTML),
    language="fr",
    name='Zoé "Z" <Exemple>',
    sender_name="Dr Camille Exemple, Cabinet des Lilas",
    reply_to="cabinet@example.org",
)
TAKEN = (201, {"messageId": "<202611250700.1234567@smtp-relay.example.org>"})
DUPLICATE = (400, {"code": "duplicate_parameter", "message": "idempotencyKey was used"})
Use = Callable[[BrevoEmailProvider], Awaitable[Any]]


def messages(count: int, **changes: Any) -> list[Message]:
    return [
        replace(MESSAGE, reference=f"{number}.abcdefgh", recipient=f"p{number}@example.org", **changes)
        for number in range(count)
    ]


def using(use: Use, *answers: Any) -> tuple[Any, list[dict[str, Any]]]:
    """What `use` returns with a provider whose server gives these answers in turn, and what that was asked."""

    async def go() -> tuple[Any, list[dict[str, Any]]]:
        async with brevo(*answers) as server:
            one = provider(server)
            await one.open()
            result = await use(one)
            await one.close()
            return result, server.asked

    return asyncio.run(go())


def provider(server: Brevo) -> BrevoEmailProvider:
    return BrevoEmailProvider(
        BrevoEmail(base_url=server.base_url, api_key="made-up", sender="notice@example.org", timeout_s=5)
    )


def send(message: Message = MESSAGE, *answers: Any) -> tuple[Outcome, list[dict[str, Any]]]:
    return using(lambda one: one.send(message), *(answers or (TAKEN,)))


def batch(several: list[Message], *answers: Any) -> tuple[list[Outcome], list[dict[str, Any]]]:
    return using(lambda one: one.send_batch(several), *answers)


# --- one request each


def test_an_email_says_what_it_must_and_nothing_else_about_the_person():
    outcome, [request] = send()
    assert (outcome.kind, outcome.provider_message_id) == (Kind.ACCEPTED, TAKEN[1]["messageId"])
    assert (request["path"], request["key"]) == ("/v3/smtp/email", "made-up")
    key = request["body"]["headers"].pop("idempotencyKey")
    text, html = MESSAGE.content.fill(MESSAGE.name)
    assert request["body"] == {
        "sender": {"name": "Dr Camille Exemple, Cabinet des Lilas", "email": "notice@example.org"},
        "replyTo": {"email": "cabinet@example.org"},
        "to": [{"email": "jeanne@example.org"}],
        "subject": 'Vos "données"',
        "htmlContent": html,
        "textContent": text,
        "headers": {"X-Mailin-custom": "7.abcdefgh"},
    }
    assert '"Z" <Exemple>' in text
    assert "&quot;Z&quot; &lt;Exemple&gt;" in html
    assert len(key) == 36


@pytest.mark.parametrize("name", ["", "www.example.org", "{{ params.x }}", "A {% b %}", "A %B%"])
def test_a_name_that_says_something_else_leaves_the_notices_own_words(name: str):
    _, [request] = send(replace(MESSAGE, name=name))
    text, html = MESSAGE.content.fill("")
    assert (request["body"]["textContent"], request["body"]["htmlContent"]) == (text, html)


def test_the_key_is_the_same_at_every_try_and_another_for_another_delivery():
    async def use(one: BrevoEmailProvider) -> None:
        for message in (MESSAGE, MESSAGE, replace(MESSAGE, reference="8.abcdefgh")):
            await one.send(message)

    _, asked = using(use, TAKEN)
    first, again, other = (request["body"]["headers"]["idempotencyKey"] for request in asked)
    assert first == again != other


def test_the_requests_are_what_brevos_own_description_asks_for(shared: Path):
    specification = json.loads((shared / "specs" / "brevo.json").read_text())
    schema = specification["components"]["schemas"]["sendSmtpEmail"]
    _, [single] = send()
    _, [several] = batch(messages(3), (201, {"messageIds": ["<1@x>", "<2@x>", "<3@x>"]}))
    for request in (single, several):
        assert not list(OAS30Validator(schema).iter_errors(request["body"]))


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("Dr Camille Exemple, Cabinet des Lilas", "Dr Camille Exemple, Cabinet des Lilas"),
        ("Dr Élodie Exemple, Cabinet (Pôle A)", "Dr Élodie Exemple - Cabinet Pôle A"),
        ("Dr Élodie d'Exemple", "Dr Élodie d'Exemple"),
        ("Dr Camille Exemple, Centre " + "très " * 20 + "long", "Dr Camille Exemple"),
        ("X" * 100, "X" * 70),
        ("", None),
    ],
)
def test_a_senders_name_is_one_that_brevo_shows(name: str, shown: str | None):
    _, [request] = send(replace(MESSAGE, sender_name=name))
    assert request["body"]["sender"].get("name") == shown


@pytest.mark.parametrize(
    ("changes", "code", "blame"),
    [
        ({"recipient": "zoé@example.org"}, "unfit_address", Blame.PERSON),
        ({"recipient": "a@example.org,b@example.org"}, "unfit_address", Blame.PERSON),
        ({"sender_name": "Dr X\r\nBcc: y"}, "unfit_header", Blame.OURS),
        ({"content": Frozen("Sujet", "Bonjour {{ contact.EMAIL }}", "<p>x</p>")}, "unfit_text", Blame.OURS),
        ({"content": Frozen("Sujet {% x %}", "Bonjour", "<p>x</p>")}, "unfit_text", Blame.OURS),
    ],
)
def test_what_brevo_would_read_as_something_else_is_not_asked(changes: dict[str, Any], code: str, blame: Blame):
    outcome, asked = send(replace(MESSAGE, **changes))
    assert (outcome.kind, outcome.code, outcome.blame, asked) == (Kind.REFUSED, code, blame, [])


def error(status: int, code: str, message: str) -> tuple[int, dict[str, str]]:
    return status, {"code": code, "message": message}


@pytest.mark.parametrize(
    ("answer", "kind", "blame", "hold"),
    [
        (error(400, "invalid_parameter", "email is not valid in to"), Kind.REFUSED, Blame.PERSON, False),
        (error(400, "missing_parameter", "Recipient is missing"), Kind.REFUSED, Blame.PERSON, False),
        (error(400, "invalid_parameter", "sender email is not valid"), Kind.REFUSED, Blame.OURS, False),
        (error(400, "invalid_parameter", "email is not valid in replyTo"), Kind.REFUSED, Blame.OURS, False),
        (error(400, "missing_parameter", "htmlContent is missing"), Kind.REFUSED, Blame.OURS, False),
        (error(400, "bad_request", "Unable to send email, recipient"), Kind.REFUSED, Blame.OURS, False),
        (error(400, "account_under_validation", "wait"), Kind.REFUSED, Blame.OURS, True),
        (error(401, "unauthorized", "Key not found"), Kind.REFUSED, Blame.OURS, True),
        (error(402, "not_enough_credits", "no credit"), Kind.REFUSED, Blame.OURS, True),
        (error(403, "permission_denied", "not yet activated"), Kind.REFUSED, Blame.OURS, True),
        (error(413, "bad_request", "too large"), Kind.REFUSED, Blame.OURS, False),
        ((429, "<html>slow down</html>"), Kind.REFUSED, Blame.THROTTLED, True),
        (error(500, "bad_request", "internal"), Kind.REFUSED, Blame.LATER, False),
        ((502, "<html>bad gateway</html>"), Kind.UNKNOWN, None, False),
        (error(503, "unavailable", "come back later"), Kind.REFUSED, Blame.LATER, False),
        ((503, "<html>down</html>"), Kind.UNKNOWN, None, False),
        ((502, {"code": 502}), Kind.UNKNOWN, None, False),
        ((200, "<html>a page in between</html>"), Kind.UNKNOWN, None, False),
        ((201, {}), Kind.UNKNOWN, None, False),
    ],
)
def test_answers(answer: Any, kind: Kind, blame: Blame | None, hold: bool):
    outcome, asked = send(MESSAGE, answer)
    assert (outcome.kind, outcome.blame, outcome.hold, len(asked)) == (kind, blame, hold, 1)
    assert not outcome.alone


def test_a_throttled_request_waits_as_long_as_brevo_says():
    outcome, _ = send(MESSAGE, (429, {}, {"x-sib-ratelimit-reset": "42"}))
    assert outcome.retry_after is not None
    assert outcome.retry_after.total_seconds() == 42


# --- uncertain requests


def test_a_key_that_is_known_at_a_first_try_is_uncertain():
    """An earlier try may have used it up without sending: only receipts or time can tell."""
    outcome, _ = send(MESSAGE, DUPLICATE)
    assert (outcome.kind, outcome.blame) == (Kind.UNKNOWN, None)


@pytest.mark.parametrize(
    ("answer", "kind", "code"),
    [
        (TAKEN, Kind.ACCEPTED, "accepted"),
        (DUPLICATE, Kind.ACCEPTED, "accepted_before"),
        (error(400, "duplicate_request", "again"), Kind.ACCEPTED, "accepted_before"),
        (error(400, "invalid_parameter", "email is not valid in to"), Kind.UNKNOWN, "refused_contact"),
        (error(401, "unauthorized", "Key not found"), Kind.UNKNOWN, "http_401_unauthorized"),
        ((429, {}), Kind.UNKNOWN, "http_429"),
        ((503, ""), Kind.UNKNOWN, "http_503"),
    ],
)
def test_asking_again_settles_what_was_taken_and_nothing_else(answer: Any, kind: Kind, code: str):
    async def use(one: BrevoEmailProvider) -> list[Outcome]:
        return [await one.send(MESSAGE), *await one.ask_again([MESSAGE])]

    [_, settled], [first, second] = using(use, (502, "<html></html>"), answer)
    assert (settled.kind, settled.code, settled.blame) == (kind, code, None)
    assert first["body"] == second["body"], "the very same request"


def test_a_batch_is_asked_again_whole():
    several = messages(3)

    async def use(one: BrevoEmailProvider) -> list[Outcome]:
        await one.send_batch(several)
        return await one.ask_again(several)

    settled, [first, second] = using(use, (504, ""), DUPLICATE)
    assert [outcome.kind for outcome in settled] == [Kind.ACCEPTED] * 3
    assert first["body"] == second["body"]


def test_asking_again_without_a_connection_settles_nothing():
    one = BrevoEmailProvider(BrevoEmail(base_url="http://127.0.0.1:1/v3", timeout_s=1))
    [outcome] = asyncio.run(one.ask_again([MESSAGE]))
    assert outcome.kind is Kind.UNKNOWN


# --- batches


def test_each_version_of_a_batch_is_one_persons_email():
    ids = [f"<{number}.1@smtp-relay.example.org>" for number in range(3)]
    several = messages(3)
    several[1] = replace(several[1], name="", content=Frozen("Your data", "Hello", "<p>Hello</p>"))
    outcomes, [request] = batch(several, (201, {"messageIds": ids}))
    assert [(outcome.kind, outcome.provider_message_id) for outcome in outcomes] == [
        (Kind.ACCEPTED, one) for one in ids
    ]
    body = request["body"]
    assert body["sender"] == {"name": "Dr Camille Exemple, Cabinet des Lilas", "email": "notice@example.org"}
    assert body["replyTo"] == {"email": "cabinet@example.org"}
    assert "to" not in body
    assert set(body["headers"]) == {"idempotencyKey"}
    assert body["htmlContent"] == MESSAGE.content.fill("")[1], "the one above names nobody"
    for message, version in zip(several, body["messageVersions"], strict=True):
        text, html = message.content.fill(message.name)
        assert version == {
            "to": [{"email": message.recipient}],
            "headers": {"X-Mailin-custom": message.reference},
            "subject": message.content.subject,
            "htmlContent": html,
            "textContent": text,
        }


def test_a_batch_of_one_is_a_single_email():
    [outcome], [request] = batch([MESSAGE], TAKEN)
    assert outcome.kind is Kind.ACCEPTED
    assert "messageVersions" not in request["body"]


def test_an_empty_batch_asks_nothing():
    assert batch([], TAKEN) == ([], [])


@pytest.mark.parametrize("ids", [None, [], ["<1.1@x>", "<2.1@x>"], "<1.1@x>", [{}, 1, None]])
def test_ids_that_do_not_fit_are_not_given_to_anybody(ids: object):
    outcomes, _ = batch(messages(3), (201, {"messageIds": ids}))
    assert [outcome.kind for outcome in outcomes] == [Kind.ACCEPTED] * 3
    assert {outcome.provider_message_id for outcome in outcomes} <= {None, "1"}


def test_a_refused_batch_went_to_nobody_and_each_is_to_be_asked_alone():
    outcomes, [_] = batch(messages(3), error(400, "invalid_parameter", "email is not valid in to"))
    for outcome in outcomes:
        assert (outcome.kind, outcome.alone, outcome.blame, outcome.hold) == (
            Kind.REFUSED,
            True,
            Blame.LATER,
            False,
        )


@pytest.mark.parametrize(
    ("answer", "kind", "blame", "hold"),
    [
        ((429, {}), Kind.REFUSED, Blame.THROTTLED, True),
        (error(401, "unauthorized", "Key not found"), Kind.REFUSED, Blame.OURS, True),
        (error(503, "unavailable", "come back later"), Kind.REFUSED, Blame.LATER, False),
        ((503, ""), Kind.UNKNOWN, None, False),
        ((502, "<html></html>"), Kind.UNKNOWN, None, False),
        (DUPLICATE, Kind.UNKNOWN, None, False),
    ],
)
def test_what_is_no_single_messages_fault_holds_for_all(answer: Any, kind: Kind, blame: Blame | None, hold: bool):
    outcomes, [_] = batch(messages(3), answer)
    assert {(one.kind, one.blame, one.hold, one.alone) for one in outcomes} == {(kind, blame, hold, False)}


def test_an_unfit_message_stops_none_of_its_batch():
    several = messages(3)
    several[1] = replace(several[1], recipient="zoé@example.org")
    outcomes, [request] = batch(several, (201, {"messageIds": ["<1.1@x>", "<2.1@x>"]}))
    assert [(one.kind, one.provider_message_id) for one in outcomes] == [
        (Kind.ACCEPTED, "<1.1@x>"),
        (Kind.REFUSED, None),
        (Kind.ACCEPTED, "<2.1@x>"),
    ]
    assert len(request["body"]["messageVersions"]) == 2


def test_two_senders_never_share_a_batch():
    two = [MESSAGE, replace(MESSAGE, sender_name="Dr Dominique Autre")]
    with pytest.raises(ValueError, match="one sender"):
        batch(two, TAKEN)


def test_a_large_batch_goes_in_several_requests_of_their_own_keys(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(brevo_email, "_MAX_REQUEST_BYTES", 1000)
    outcomes, asked = batch(messages(5), (201, {"messageIds": ["<1.1@x>", "<2.1@x>"]}))
    assert [outcome.kind for outcome in outcomes] == [Kind.ACCEPTED] * 5
    references = [
        [version["headers"]["X-Mailin-custom"] for version in request["body"]["messageVersions"]]
        for request in asked
    ]
    assert len(asked) > 1
    assert [one for part in references for one in part] == [f"{number}.abcdefgh" for number in range(5)]
    assert len({request["body"]["headers"]["idempotencyKey"] for request in asked}) == len(asked)


@pytest.mark.parametrize(
    ("answer", "first", "rest"),
    [
        ((502, ""), (Kind.UNKNOWN, "http_502"), (Kind.REFUSED, "not_sent")),
        ((429, ""), (Kind.REFUSED, "http_429"), (Kind.REFUSED, "not_sent")),
    ],
)
def test_after_a_request_that_failed_the_rest_is_surely_not_sent(
    monkeypatch: pytest.MonkeyPatch, answer: Any, first: Any, rest: Any
):
    monkeypatch.setattr(brevo_email, "_MAX_REQUEST_BYTES", 1)
    outcomes, asked = batch(messages(3), answer)
    assert [(outcome.kind, outcome.code) for outcome in outcomes] == [first, rest, rest]
    assert len(asked) == 1


def test_no_more_versions_than_brevo_takes():
    several = messages(brevo_email.MAX_VERSIONS + 1, content=Frozen("s", "t", "h"))
    _, asked = batch(several, (201, {"messageIds": []}))
    assert [len(request["body"]["messageVersions"]) for request in asked] == [1000, 1]


# --- receipts

RECEIPTS = BrevoEmailReceipts(BrevoEmail(webhook_token="a-token-of-sixteen"))


def event(word: str = "delivered", **changes: object) -> dict[str, object]:
    return {
        "event": word,
        "email": "jeanne@example.org",
        "id": 26224,
        "date": "2025-11-25 03:00:00",
        "message-id": "<202511250200.1@smtp-relay.example.org>",
        "ts": 1764036000,
        "ts_epoch": 1764036000123,
        "X-Mailin-custom": "7.abcdefgh",
        "subject": "Vos données",
    } | changes


@pytest.mark.parametrize(
    ("word", "meaning"),
    [
        ("request", Event.SENT),
        ("delivered", Event.DELIVERED),
        ("deferred", Event.NOTED),
        ("soft_bounce", Event.SOFT_FAILED),
        ("error", Event.SOFT_FAILED),
        ("hard_bounce", Event.HARD_FAILED),
        ("invalid_email", Event.HARD_FAILED),
        ("blocked", Event.HARD_FAILED),
        ("spam", Event.NOTED),
        ("unsubscribed", Event.NOTED),
        ("a word of next year", Event.NOTED),
    ],
)
def test_receipts(word: str, meaning: Event):
    [(receipt, raw)] = RECEIPTS.parse_events(orjson.dumps(event(word)))
    assert (receipt.reference, receipt.event, receipt.code) == ("7.abcdefgh", meaning, word)
    assert receipt.at == datetime.fromtimestamp(1764036000.123, UTC)
    assert receipt.provider_message_id == "<202511250200.1@smtp-relay.example.org>"
    assert orjson.loads(raw) == event(word)


@pytest.mark.parametrize("word", ["opened", "unique_opened", "proxy_open", "unique_proxy_open", "click"])
def test_what_people_read_is_not_kept(word: str):
    assert RECEIPTS.parse_events(orjson.dumps(event(word))) == []


def test_each_event_comes_with_its_own_part_of_the_body():
    """The rest is about other people, maybe another doctor's."""
    body = orjson.dumps([event(email="a@example.org"), event(email="b@example.org")])
    [first, second] = [raw for _, raw in RECEIPTS.parse_events(body)]
    assert b"b@example.org" not in first
    assert b"a@example.org" not in second


@pytest.mark.parametrize("carried", [None, "", "someone else's", "7.abc\n8.abc", {"a": 1}, "7"])
def test_an_event_without_our_reference_is_named_by_its_message_only(carried: object):
    [(receipt, _)] = RECEIPTS.parse_events(orjson.dumps(event(**{"X-Mailin-custom": carried})))
    assert receipt.reference == ""


def test_a_message_id_that_could_be_a_person_is_not_kept():
    [(receipt, _)] = RECEIPTS.parse_events(orjson.dumps(event(**{"message-id": "<jeanne@example.org>"})))
    assert receipt.provider_message_id is None


def test_an_event_that_cannot_be_read_stops_none_of_the_others():
    body = orjson.dumps([{"items": []}, event(ts_epoch=1e30), event()])
    assert len(RECEIPTS.parse_events(body)) == 1


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"7", b"[1]", b"{}", b'{"event":"delivered"}', b'[{"ts":1}]'])
def test_what_is_no_receipt_is_refused(body: bytes):
    with pytest.raises(ValueError):
        RECEIPTS.parse_events(body)


def basic(text: str) -> str:
    return "Basic " + base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    ("authorization", "genuine"),
    [
        ("Bearer a-token-of-sixteen", True),
        ("bearer a-token-of-sixteen", True),
        (basic("brevo:a-token-of-sixteen"), True),
        ("Bearer a-token-of-sixteem", False),
        (basic("a-token-of-sixteen:"), False),
        ("Basic %%%", False),
        ("a-token-of-sixteen", False),
        ("Digest a-token-of-sixteen", False),
        ("Bearer", False),
        ("", False),
        (None, False),
    ],
)
def test_only_who_knows_the_token_reports(authorization: str | None, genuine: bool):
    assert RECEIPTS.verify(authorization) is genuine


@pytest.mark.parametrize("authorization", ["Bearer ", "Bearer", basic(":"), None])
def test_without_a_token_nobody_does(authorization: str | None):
    assert not BrevoEmailReceipts(BrevoEmail()).verify(authorization)
