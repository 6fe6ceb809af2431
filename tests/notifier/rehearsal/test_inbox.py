"""Real SMTP against the inbox: what it takes, counts and refuses."""

import smtplib
import socket
from email.message import EmailMessage

import pytest

from notifier.rehearsal.ledger import read_mail
from notifier.states import Channel
from tests.notifier.rehearsal.conftest import Pair

SENDER = "notice@notifier.example.org"


def make_mail(subject: str = "Information importante sur vos données") -> EmailMessage:
    message = EmailMessage()
    message["Subject"] = subject
    message["From"] = f"Cabinet du Dr Martin <{SENDER}>"
    message["Message-ID"] = "<one@notifier.example.org>"
    message.set_content("Bonjour,\n.une ligne qui commence par un point\n")
    message.add_alternative("<p>Bonjour</p>", subtype="html")
    return message


def connect(pair: Pair) -> smtplib.SMTP:
    return smtplib.SMTP("127.0.0.1", pair.smtp_port, timeout=20)


def test_a_mail_is_counted_and_kept_as_it_came(pair):
    with connect(pair) as client:
        client.send_message(make_mail(), SENDER, ["Eve@Example.org"])
    assert pair.ledger.counts()["email"] == {"taken": 1, "arrived": 1, "contacts": {"eve@example.org": 1}}
    mail = read_mail(pair.ledger.newest(Channel.EMAIL, 0, 1)[0].content)
    assert mail.subject == "Information importante sur vos données"
    assert mail.text.splitlines() == ["Bonjour,", ".une ligne qui commence par un point"]
    assert mail.html.strip() == "<p>Bonjour</p>"
    assert mail.message_id == "<one@notifier.example.org>"


def test_several_mails_over_one_connection_are_several(pair):
    with connect(pair) as client:
        for n in range(3):
            client.send_message(make_mail(), SENDER, [f"p{n}@example.org"])
    assert pair.ledger.total(Channel.EMAIL) == 3


def test_it_offers_what_accented_addresses_need(pair):
    with connect(pair) as client:
        client.ehlo()
        assert client.has_extn("smtputf8")
        assert client.has_extn("8bitmime")
        client.sendmail(SENDER, ["jérôme@example.fr"], "Subject: x\n\nx", mail_options=["SMTPUTF8"])
    assert pair.ledger.count(Channel.EMAIL, "jérôme@example.fr") == 1


def test_a_refused_address_is_refused_at_every_try_and_never_counted(pair):
    pair.set_faults(email={"refused_contacts": ["eve@example.org"]})
    answers = set()
    with connect(pair) as client:
        for _ in range(3):
            with pytest.raises(smtplib.SMTPRecipientsRefused) as refusal:
                client.send_message(make_mail(), SENDER, ["eve@example.org"])
            answers.add(refusal.value.recipients["eve@example.org"])
        client.send_message(make_mail(), SENDER, ["other@example.org"])
    assert len(answers) == 1
    assert answers.pop()[0] == 550
    assert pair.ledger.counts()["email"]["contacts"] == {"other@example.org": 1}


def test_a_busy_server_says_later_and_takes_nothing(pair):
    pair.set_faults(email={"throttled": 1})
    codes = set()
    for _ in range(20):
        with connect(pair) as client:
            try:
                client.send_message(make_mail(), SENDER, ["eve@example.org"])
            except smtplib.SMTPRecipientsRefused as refusal:
                codes.add(refusal.recipients["eve@example.org"][0])
    assert codes <= {421, 450, 451}
    assert len(codes) > 1
    assert pair.ledger.total(Channel.EMAIL) == 0


def test_after_421_the_connection_is_closed(pair):
    pair.set_faults(email={"throttled": 1})
    closed = False
    for _ in range(30):
        client = connect(pair)
        client.ehlo()
        client.mail(SENDER)
        code, _ = client.rcpt("eve@example.org")
        if code == 421:
            with pytest.raises(smtplib.SMTPServerDisconnected):
                client.noop()
            closed = True
        client.close()
    assert closed


def test_a_fault_of_the_server_comes_after_the_text(pair):
    pair.set_faults(email={"broken": 1})
    with connect(pair) as client, pytest.raises(smtplib.SMTPDataError) as refusal:
        client.send_message(make_mail(), SENDER, ["eve@example.org"])
    assert refusal.value.smtp_code in (451, 452)
    assert pair.ledger.total(Channel.EMAIL) == 0


def test_a_refused_sender_is_told_so(pair):
    pair.set_faults(email={"sender_refused": True})
    with connect(pair) as client, pytest.raises(smtplib.SMTPRecipientsRefused) as refusal:
        client.send_message(make_mail(), SENDER, ["eve@example.org"])
    code, text = refusal.value.recipients["eve@example.org"]
    assert code == 550
    assert text.startswith(b"5.7.1")


def test_a_connection_closed_before_the_text_takes_nothing(pair):
    pair.set_faults(email={"closed": 1})
    client = connect(pair)
    with pytest.raises((smtplib.SMTPServerDisconnected, OSError)):
        client.send_message(make_mail(), SENDER, ["eve@example.org"])
    client.close()
    assert pair.ledger.total(Channel.EMAIL) == 0


def test_a_lost_reply_is_a_mail_that_arrived(pair):
    pair.set_faults(email={"lost_reply": 1})
    client = connect(pair)
    with pytest.raises((smtplib.SMTPServerDisconnected, OSError)):
        client.send_message(make_mail(), SENDER, ["eve@example.org"])
    client.close()
    assert pair.ledger.count(Channel.EMAIL, "eve@example.org") == 1


def test_it_listens_to_this_machine_only(pair):
    own = socket.gethostbyname(socket.gethostname())
    if own.startswith("127."):
        own = "127.0.0.2"
    with pytest.raises(OSError), socket.create_connection((own, pair.smtp_port), timeout=5):
        pass
