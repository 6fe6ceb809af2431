"""The count is the rehearsal's own, and survives a kill."""

import stat
from email.message import EmailMessage
from pathlib import Path

from notifier.rehearsal.ledger import Ledger, described, read_journal, read_mail
from notifier.states import Channel


def mail(subject: str = "Vos données", text: str = "Bonjour Hélène\n", html: str = "") -> str:
    message = EmailMessage()
    message["Subject"] = subject
    message["From"] = "Cabinet <notice@notifier.example.org>"
    message["Message-ID"] = "<1@notifier.example.org>"
    message.set_content(text, cte="quoted-printable")
    if html:
        message.add_alternative(html, subtype="html")
    return message.as_bytes().decode("latin-1")


def test_it_counts_per_channel_and_contact():
    ledger = Ledger()
    ledger.add(Channel.EMAIL, "a@example.org", mail(), at=1.5)
    ledger.add(Channel.SMS, "33639980001", "un", at=2)
    ledger.add(Channel.SMS, "33639980001", "deux", at=3, arrived=False)
    counts = ledger.counts()
    assert counts["email"] == {"taken": 1, "arrived": 1, "contacts": {"a@example.org": 1}}
    assert counts["sms"] == {"taken": 2, "arrived": 1, "contacts": {"33639980001": 2}}
    assert ledger.repeated(Channel.SMS, 5) == [("33639980001", 2)]
    assert [taken.content for taken in ledger.newest(Channel.SMS, 0, 5)] == ["deux", "un"]
    assert [taken.content for taken in ledger.newest(Channel.SMS, 1, 5)] == ["un"]
    assert [taken.content for taken in ledger.like(1, 0, 1)] == ["deux"]
    assert [taken.number for taken in ledger.since(1, 5)] == [1, 2]
    assert ledger.get(3) is None
    ledger.close()


def test_a_mail_is_read_as_its_reader_sees_it():
    read = read_mail(mail(html="<p>Bonjour Hélène</p>"))
    assert read.subject == "Vos données"
    assert read.text == "Bonjour Hélène\n"
    assert "Hélène" in read.html
    assert read.message_id == "<1@notifier.example.org>"


def test_a_broken_mail_is_no_error():
    assert read_mail("Content-Type: text/plain; charset=none-such\n\nabc").text.strip() == "abc"
    assert read_mail("").subject == ""
    assert read_mail("Subject: =?none-such?q?a?=\n\nx").subject == "=?none-such?q?a?="


def test_headers_are_read_in_both_forms():
    raw = "Subject: Données de François\n\nx".encode().decode("latin-1")
    assert read_mail(raw).subject == "Données de François"
    folded = "Subject: =?utf-8?q?Donn=C3=A9es?=\n =?utf-8?q?_de?= Marc\n\nx"
    assert read_mail(folded).subject == "Données de Marc"


def test_an_attachment_is_not_the_text():
    message = EmailMessage()
    message.set_content("the text")
    message.add_attachment("not the text", filename="a.txt")
    assert read_mail(message.as_bytes().decode("latin-1")).text.strip() == "the text"


def test_a_journal_is_counted_again_after_a_kill(tmp_path: Path):
    path = tmp_path / "journal.jsonl"
    ledger = Ledger(path)
    ledger.add(Channel.EMAIL, "a@example.org", mail(), at=1)
    ledger.add(Channel.SMS, "33639980001", "un", at=2)
    before = ledger.counts()
    with path.open("ab") as file:
        file.write(b'{"number": 2, "chann')
    again = Ledger(path)
    assert again.counts() == before
    again.add(Channel.SMS, "33639980001", "deux", at=3)
    assert [one["text"] for one in read_journal(path)] == ["Bonjour Hélène\n", "un", "deux"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    ledger.close()
    again.close()


def test_reset_forgets_everything(tmp_path: Path):
    path = tmp_path / "journal.jsonl"
    ledger = Ledger(path)
    ledger.add(Channel.SMS, "33639980001", "un", at=2)
    ledger.reset()
    assert ledger.total(Channel.SMS) == 0
    assert path.read_bytes() == b""
    ledger.add(Channel.SMS, "33639980002", "deux", at=2)
    taken = ledger.get(0)
    assert taken is not None
    assert described(taken)["text"] == "deux"
    ledger.close()
