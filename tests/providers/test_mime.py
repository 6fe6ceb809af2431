"""The spliced message is what a standard mail library reads back, whatever stands in it."""

from datetime import UTC, datetime
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import SMTP
from email.policy import default as modern

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notifier.errors import InputError
from notifier.notices import Frozen, span
from notifier.providers import mime
from notifier.providers.base import Message

NOW = datetime(2026, 11, 25, 9, 30, 5, tzinfo=UTC)


def build(**changes: str) -> bytes:
    """What a server makes of what follows DATA."""
    return written(**changes).replace(b"\r\n..", b"\r\n.")


def written(**changes: str) -> bytes:
    values = {
        "reference": "12.abcdefgh",
        "recipient": "patient@example.org",
        "subject": "Information importante sur vos données personnelles – Cabinet du Dr Éléonore Lefèvre-Saint-Aubin",
        "text": "Madame, Monsieur,\n\nvos données ont été copiées.\n",
        "html": "<p>vos données ont été copiées</p>",
        "language": "fr",
        "sender_name": "Cabinet (Pôle A), Besançon",
        "reply_to": "cabinet@example.org",
        "name": "",
    }
    values |= changes
    content = Frozen(*(values.pop(part) for part in ("subject", "text", "html")))
    return mime.build(
        Message(content=content, **values), sender="notice@example.net", domain="example.net", now=NOW
    )


def read(data: bytes) -> EmailMessage:
    message = message_from_bytes(data, policy=modern)
    assert isinstance(message, EmailMessage)
    assert message.defects == []
    return message


def test_headers_read_back_as_they_were_meant():
    message = read(build())
    assert message["Subject"].startswith(
        "Information importante sur vos données personnelles – Cabinet du Dr Éléonore"
    )
    assert message["From"].addresses[0].display_name == "Cabinet (Pôle A), Besançon"
    assert message["From"].addresses[0].addr_spec == "notice@example.net"
    assert message["Reply-To"] == "cabinet@example.org"
    assert message["To"] == "patient@example.org"
    assert message["Message-ID"] == "<12.abcdefgh@example.net>"
    assert message["Auto-Submitted"] == "auto-generated"
    assert message["Content-Language"] == "fr"
    assert message["Date"].datetime == NOW
    assert "Precedence" not in message


def test_no_line_is_longer_than_a_mail_server_takes():
    data = build(text="é" * 5000 + "\n" + "a" * 3000, html="<p>" + "x" * 5000 + "</p>", sender_name="é" * 300)
    assert max(len(line) for line in data.split(b"\r\n")) <= 78
    assert b"\n" not in data.replace(b"\r\n", b"")
    assert data.isascii()


@pytest.mark.parametrize("field", ["subject", "sender_name", "reply_to", "language"])
def test_a_line_break_cannot_add_a_header(field: str):
    with pytest.raises(InputError, match="line break"):
        build(**{field: "Avis\r\nBcc: victim@example.org"})


@pytest.mark.parametrize(
    "recipient",
    [
        "a@example.org>\r\nRCPT TO:<b@example.org",
        "a@example.org, b@example.org",
        "rené@example.org",
        "a b@example.org",
    ],
)
def test_a_recipient_cannot_change_the_envelope(recipient: str):
    with pytest.raises(InputError):
        build(recipient=recipient)


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\r"), max_size=400))
def test_any_text_arrives_as_it_was(text: str):
    message = read(build(text=text))
    body = message.get_body(preferencelist=("plain",))
    assert body is not None
    assert body.get_content().replace("\r\n", "\n").rstrip("\n") == text.rstrip("\n")


def test_the_message_survives_a_standard_library_round_trip():
    message = read(build(text=".\n..x\nfin\n"))
    again = read(message.as_bytes(policy=SMTP))
    assert again.get_body(preferencelist=("plain",)).get_content() == message.get_body(("plain",)).get_content()


@given(
    st.text(alphabet=st.characters(exclude_categories=["Cs", "Co"], exclude_characters="\r"), max_size=200),
    st.text(alphabet=st.characters(exclude_categories=["Cs", "Co"], exclude_characters="\r"), max_size=200),
    st.sampled_from(["Éléonore d'Alembert", ".Point", "A" * 119, "é" * 60, "Jean <b>", ""]),
)
def test_a_name_spliced_into_encoded_text_reads_back_as_if_it_had_been_there(before: str, after: str, name: str):
    text = before + span("ce patient") + after
    message = read(build(text=text, html=text, name=name))
    expected_text, expected_html = Frozen("s", text, text).fill(name)
    for kind, expected in (("plain", expected_text), ("html", expected_html)):
        body = message.get_body(preferencelist=(kind,))
        assert body is not None
        assert body.get_content().replace("\r\n", "\n").rstrip("\n") == expected.rstrip("\n")


@given(st.text(alphabet="aé.=\n ", max_size=300), st.text(alphabet="aé.= ", max_size=100))
def test_no_line_is_too_long_nor_starts_with_a_single_dot(text: str, name: str):
    data = written(text=text + span("x") + text, html=text + span("x"), name=name)
    for line in data.split(b"\r\n"):
        assert len(line) <= 78
        assert not line.startswith(b".") or line.startswith(b"..")
