"""The page and the JSON: what they show, that they refuse strangers, and that nothing comes from outside."""

import re
import smtplib

import httpx
import pytest

from notifier.states import Channel
from tests.notifier.rehearsal.conftest import API_KEY, Pair

HTML = "<p>Bonjour</p><script>alert(1)</script>"


def add_mails(pair: Pair, count: int, contact: str = "eve@example.org") -> None:
    for n in range(count):
        content = f"Subject: Avis {n} <b>\nMessage-ID: <{n}@example.org>\nContent-Type: text/html\n\n{HTML}"
        pair.ledger.add(Channel.EMAIL, contact, content, at=1_764_036_000 + n)


def test_the_page_says_that_nothing_leaves_and_needs_nothing_from_outside(pair):
    add_mails(pair, 2)
    answer = httpx.get(pair.url)
    assert answer.status_code == 200
    assert "nothing leaves this machine" in answer.text
    assert "Avis 1 &lt;b&gt;" in answer.text
    assert not re.search(r"(?:https?:)?//|<script|javascript:| on\w+=", answer.text.replace("<!doctype html>", ""))
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe-inline" not in policy
    nonce = re.search(r"'nonce-([^']+)'", policy)
    assert nonce is not None
    assert f'<style nonce="{nonce[1]}">' in answer.text


def test_messages_are_listed_newest_first_by_pages(pair):
    add_mails(pair, 60)
    first = httpx.get(pair.url).text
    assert first.index("Avis 59") < first.index("Avis 10")
    assert "Avis 9 " not in first
    assert 'rel="next"' in first
    second = httpx.get(f"{pair.url}/?channel=email&skip=50").text
    assert "Avis 9 " in second
    assert 'rel="prev"' in second
    assert 'rel="next"' not in second


def test_one_contacts_messages_can_be_seen_alone_without_naming_it_in_the_address(pair):
    add_mails(pair, 2)
    add_mails(pair, 1, "other@example.org")
    page = httpx.get(pair.url).text
    assert "2 to this contact" in page
    assert not re.search(r'href="[^"]*@', page)
    assert "other@example.org" not in httpx.get(f"{pair.url}/?channel=email&like=0").text


def test_sms_have_their_own_section(pair):
    pair.ledger.add(Channel.SMS, "33639980001", "Dr Martin : <i>", at=1, arrived=False)
    page = httpx.get(f"{pair.url}/?channel=sms").text
    assert "Dr Martin : &lt;i&gt;" in page
    assert "bounced" in page


def test_a_mails_html_is_shown_where_it_can_do_nothing(pair):
    add_mails(pair, 1)
    assert "<iframe sandbox " in httpx.get(f"{pair.url}/mail/0").text
    frame = httpx.get(f"{pair.url}/mail/0/html")
    assert frame.headers["content-security-policy"].startswith("sandbox; default-src 'none'")
    assert httpx.get(f"{pair.url}/mail/7").status_code == 404


def test_counts_and_messages_come_as_json(pair):
    with smtplib.SMTP("127.0.0.1", pair.smtp_port, timeout=20) as client:
        client.sendmail("a@example.org", ["eve@example.org"], "Subject: x\nMessage-ID: <m@example.org>\n\ntext")
    pair.ledger.add(Channel.SMS, "33639980001", "un", at=1)
    counts = httpx.get(f"{pair.url}/counts.json").json()
    assert counts["email"]["contacts"] == {"eve@example.org": 1}
    assert counts["sms"]["taken"] == 1
    first = httpx.get(f"{pair.url}/messages.json", params={"limit": 1}).json()
    assert first["messages"][0]["message_id"] == "<m@example.org>"
    assert first["messages"][0]["text"].strip() == "text"
    rest = httpx.get(f"{pair.url}/messages.json", params={"since": first["next"]}).json()
    assert [one["text"] for one in rest["messages"]] == ["un"]
    assert rest["next"] is None


def test_each_message_says_which_delivery_it_is_for_and_every_try_is_counted(pair):
    """An email by its Message-ID, an SMS by the address for its receipts."""
    pair.set_faults(email={"refused_contacts": ["gone@example.org"]})
    with smtplib.SMTP("127.0.0.1", pair.smtp_port, timeout=20) as client:
        client.sendmail("a@example.org", ["eve@example.org"], "Message-ID: <7.abc@example.org>\n\ntext")
        with pytest.raises(smtplib.SMTPRecipientsRefused):
            client.sendmail("a@example.org", ["gone@example.org"], "Subject: x\n\ntext")
    sms = {
        "sender": "InfoSante",
        "recipient": "33639980001",
        "content": "un",
        "webUrl": f"{pair.receipts_url}/8.def",
    }
    httpx.post(f"{pair.url}/v3/transactionalSMS/send", json=sms, headers={"api-key": API_KEY}, timeout=20)
    messages = httpx.get(f"{pair.url}/messages.json").json()["messages"]
    assert [one["reference"] for one in messages] == ["7.abc", "8.def"]
    brief = httpx.get(f"{pair.url}/counts.json", params={"brief": ""}).json()
    assert (brief["email"], brief["sms"]) == ({"taken": 1}, {"taken": 1})
    assert brief["tries"] == {"email": 2, "sms": 1}


def test_faults_can_be_read_and_set(pair):
    faults = httpx.put(f"{pair.url}/faults", json={"preset": "usual", "email": {"refused": 0.5}}).json()
    assert faults == httpx.get(f"{pair.url}/faults").json()
    assert pair.inbox.faults.refused == 0.5
    assert pair.sms.faults.throttled > 0
    wrong = httpx.put(f"{pair.url}/faults", json={"email": {"refused": 2}})
    assert wrong.status_code == 422
    assert "email.refused" in wrong.json()["detail"]
    assert httpx.put(f"{pair.url}/faults", content=b"{").status_code == 400
    assert pair.inbox.faults.refused == 0.5


def test_the_form_sets_faults_without_javascript(pair):
    httpx.put(
        f"{pair.url}/faults", json={"email": {"sender_refused": True, "refused_contacts": ["a@example.org"]}}
    )
    answer = httpx.post(f"{pair.url}/faults", data={"email.refused": "0.25", "sms.rate_per_s": "9"})
    assert answer.status_code == 303
    assert pair.inbox.faults.refused == 0.25
    assert not pair.inbox.faults.sender_refused
    assert pair.inbox.faults.refused_contacts == {"a@example.org"}
    assert pair.sms.faults.rate_per_s == 9
    # A browser sends where the form stood; a page that forbade it would be refused its own form.
    assert httpx.get(pair.url).headers["referrer-policy"] == "same-origin"
    assert (
        httpx.post(f"{pair.url}/faults", data={"preset": "none"}, headers={"Origin": pair.url}).status_code == 303
    )
    assert httpx.post(f"{pair.url}/faults", data={"email.refused": "many"}).status_code == 422
    assert httpx.post(f"{pair.url}/faults", data={"preset": "none"}).status_code == 303
    assert pair.inbox.faults.refused == 0


def test_reset_forgets_messages_and_keeps_faults(pair):
    add_mails(pair, 1)
    pair.set_faults(email={"refused": 0.5})
    assert httpx.post(f"{pair.url}/reset").status_code == 204
    assert pair.ledger.total(Channel.EMAIL) == 0
    assert pair.inbox.faults.refused == 0.5


def test_another_sites_page_cannot_reach_it(pair):
    assert httpx.get(pair.url, headers={"Host": "rebound.example.com"}).status_code == 403
    foreign = httpx.post(f"{pair.url}/reset", headers={"Origin": "https://example.com"})
    assert foreign.status_code == 403
