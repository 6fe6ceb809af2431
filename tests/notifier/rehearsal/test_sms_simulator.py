"""Real HTTP against the SMS simulator: Brevo's answers, its own count, and the receipts it posts back."""

import json
from pathlib import Path

import httpx
import pytest

from notifier.rehearsal.sms_simulator import count_parts
from notifier.states import Channel
from tests.notifier.rehearsal.conftest import API_KEY, Pair

NUMBER = "33639980001"


def body(**changes: object) -> dict[str, object]:
    return {"sender": "InfoSante", "recipient": NUMBER, "content": "Bonjour", "type": "transactional", **changes}


def post(pair: Pair, path: str = "sms", key: str = API_KEY, **changes: object) -> httpx.Response:
    return httpx.post(
        f"{pair.url}/v3/transactionalSMS/{path}", json=body(**changes), headers={"api-key": key}, timeout=20
    )


@pytest.mark.parametrize("path", ["sms", "send"])
def test_a_message_is_taken_counted_and_answered_as_brevo_does(pair, path):
    answer = post(pair, path, content="é" * 161)
    assert answer.status_code == 201
    known = answer.json()
    assert set(known) == {"reference", "messageId", "smsCount", "usedCredits", "remainingCredits"}
    assert known["smsCount"] == 2
    assert isinstance(known["messageId"], int)
    assert known["messageId"] < 2**63
    assert pair.ledger.count(Channel.SMS, NUMBER) == 1
    assert pair.ledger.newest(Channel.SMS, 0, 1)[0].content == "é" * 161


def test_answers_fit_brevos_published_definition(pair):
    path = Path(__file__).parents[4] / "shared" / "specs" / "brevo.json"
    if not path.exists():
        pytest.skip("the published definition is not beside this checkout")
    schemas = json.loads(path.read_text())["components"]["schemas"]
    known = post(pair).json()
    assert set(schemas["sendSms"]["required"]) <= set(known) <= set(schemas["sendSms"]["properties"])
    problem = post(pair, recipient="+33639980001").json()
    assert problem["code"] in schemas["errorModel"]["properties"]["code"]["enum"]


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"sender": ""}, 400, "missing_parameter"),
        ({"recipient": None}, 400, "missing_parameter"),
        ({"content": ""}, 400, "missing_parameter"),
        ({"sender": "InfoSanteFrance"}, 400, "invalid_parameter"),
        ({"recipient": "+33639980001"}, 400, "invalid_parameter"),
        ({"recipient": "0639980001"}, 400, "invalid_parameter"),
        ({"content": 3}, 400, "invalid_parameter"),
        ({"type": "urgent"}, 400, "invalid_parameter"),
        ({"webUrl": "nowhere"}, 400, "invalid_parameter"),
        ({"unicodeEnabled": "yes"}, 400, "invalid_parameter"),
    ],
)
def test_a_wrong_request_is_refused_by_name_and_not_counted(pair, changes, status, code):
    answer = post(pair, **changes)
    assert answer.status_code == status
    assert answer.json()["code"] == code
    assert pair.ledger.total(Channel.SMS) == 0


def test_a_wrong_key_is_refused(pair):
    answer = post(pair, key="another")
    assert answer.status_code == 401
    assert answer.json()["code"] == "unauthorized"


def test_no_credit_left(pair):
    pair.set_faults(sms={"sender_refused": True})
    answer = post(pair)
    assert (answer.status_code, answer.json()["code"]) == (402, "not_enough_credits")


def test_too_many_requests_carry_the_three_headers_and_no_retry_after(pair):
    pair.set_faults(sms={"throttled": 1})
    answer = post(pair)
    assert answer.status_code == 429
    assert answer.headers["x-sib-ratelimit-remaining"] == "0"
    assert int(answer.headers["x-sib-ratelimit-limit"]) > 0
    assert int(answer.headers["x-sib-ratelimit-reset"]) > 0
    assert "retry-after" not in answer.headers
    assert pair.ledger.total(Channel.SMS) == 0


def test_a_rate_limit_refuses_what_is_above_it(pair):
    pair.set_faults(sms={"rate_per_s": 1})
    answers = [post(pair).status_code for _ in range(30)]
    assert 201 in answers
    assert 429 in answers
    assert pair.ledger.total(Channel.SMS) == answers.count(201)


def test_a_broken_provider_takes_nothing(pair):
    pair.set_faults(sms={"broken": 1})
    assert post(pair).status_code in (500, 502, 503)
    assert pair.ledger.total(Channel.SMS) == 0


def test_a_connection_closed_before_acceptance_takes_nothing(pair):
    pair.set_faults(sms={"closed": 1})
    with pytest.raises(httpx.TransportError):
        post(pair)
    assert pair.ledger.total(Channel.SMS) == 0


def test_a_lost_reply_is_an_sms_that_was_taken(pair):
    pair.set_faults(sms={"lost_reply": 1})
    with pytest.raises(httpx.TransportError):
        post(pair)
    assert pair.ledger.count(Channel.SMS, NUMBER) == 1


def test_a_refused_number_is_refused_at_every_try(pair):
    pair.set_faults(sms={"refused_contacts": ["+33639980001"]})
    assert [post(pair).json()["code"] for _ in range(2)] == ["invalid_parameter"] * 2
    assert post(pair, recipient="33639980002").status_code == 201


def test_receipts_name_the_message_and_come_in_order(pair):
    known = post(pair, webUrl=pair.receipts_url, tag="one-delivery").json()
    sent, delivered = pair.wait_for_receipts(2)
    assert (sent["msg_status"], delivered["msg_status"]) == ("sent", "delivered")
    for receipt in (sent, delivered):
        assert receipt["messageId"] == known["messageId"]
        assert receipt["reference"] == {"1": known["reference"]}
        assert receipt["to"] == NUMBER
        assert receipt["tag"] == ["one-delivery"]
        assert isinstance(receipt["ts_event"], int)
    assert sent["sms_count"] == 1


def test_without_a_web_url_nothing_is_posted(pair):
    assert post(pair).status_code == 201
    post(pair, webUrl=pair.receipts_url)
    assert len({receipt["messageId"] for receipt in pair.wait_for_receipts(2)}) == 1


def test_a_bounced_sms_was_taken_but_did_not_arrive(pair):
    pair.set_faults(sms={"hard_bounced": 1, "receipt_delay_s": 0})
    assert post(pair, webUrl=pair.receipts_url).status_code == 201
    assert pair.wait_for_receipts(2)[1]["msg_status"] == "hard_bounce"
    counts = pair.ledger.counts()["sms"]
    assert (counts["taken"], counts["arrived"]) == (1, 0)


def test_no_sms_reaches_a_landline(pair):
    assert post(pair, recipient="33199001234").status_code == 201
    assert pair.ledger.counts()["sms"]["arrived"] == 0


def test_a_soft_bounce_is_followed_by_a_message_that_arrives(pair):
    pair.set_faults(sms={"soft_bounced": 1, "receipt_delay_s": 0})
    post(pair, webUrl=pair.receipts_url)
    pair.wait_for_receipts(2)
    post(pair, webUrl=pair.receipts_url)
    ends = [receipt["msg_status"] for receipt in pair.wait_for_receipts(4)]
    assert sorted(ends) == ["delivered", "sent", "sent", "soft_bounce"]
    assert pair.ledger.counts()["sms"]["arrived"] == 1


def test_an_early_receipt_comes_before_the_answer(pair):
    pair.set_faults(sms={"receipts_early": 1})
    post(pair, webUrl=pair.receipts_url)
    assert len(pair.receipts) >= 1


def test_receipts_are_posted_again_while_our_side_is_down(pair):
    pair.answers = [503, 429]
    post(pair, webUrl=pair.receipts_url)
    assert [receipt["msg_status"] for receipt in pair.wait_for_receipts(2)] == ["sent", "delivered"]


def test_a_receipt_our_side_refuses_is_discarded(pair):
    pair.answers = [404]
    post(pair, webUrl=pair.receipts_url)
    assert [receipt["msg_status"] for receipt in pair.wait_for_receipts(1)] == ["delivered"]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", 1),
        ("a" * 160, 1),
        ("a" * 161, 2),
        ("€" * 80, 1),
        ("€" * 81, 2),
        ("ç" * 70, 1),
        ("ç" * 71, 2),
        ("😀" * 36, 2),
    ],
)
def test_parts_are_counted_as_they_are_billed(text, parts):
    assert count_parts(text) == parts
