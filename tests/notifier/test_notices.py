"""The frozen text: one place for a name, one hash, and nothing a list can do to either."""

from __future__ import annotations

from html import unescape
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notifier import notices
from notifier.errors import InputError
from notifier.notices import DraftNotice, Frozen, clean_line, clean_name, clean_text, span
from notifier.states import Channel, Variant

TEXT = f"Madame, Monsieur,\n\nCe message est destiné à {span('la personne du fichier')}.\nFin.\n"
HTML = f"<p>Ce message est destiné à {span('la personne du fichier')}.</p><p>Fin.</p>"


def make_draft(**changes: object) -> DraftNotice:
    values = {
        "channel": Channel.EMAIL,
        "language": "fr",
        "variant": Variant.STANDARD,
        "subject": "Information",
        "text": TEXT,
        "html": HTML,
    }
    return DraftNotice(**{**values, **changes})  # type: ignore[arg-type]  # a test's table of fields


def tags(html: str) -> list[str]:
    found: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            found.append(f"<{tag}{attrs}>")

    Reader().feed(html)
    return found


def test_a_name_stands_where_the_notice_has_its_place():
    text, html = Frozen("s", TEXT, HTML).fill("Hélène Martin")
    assert "destiné à Hélène Martin.\n" in text
    assert html == "<p>Ce message est destiné à Hélène Martin.</p><p>Fin.</p>"


@pytest.mark.parametrize(
    "name", ["", "   ", "\u202e", "\ue000\ue001", "\n\r\t", "www.example.com", "a@example.com"]
)
def test_without_a_usable_name_the_approved_words_stand_there(name: str):
    text, html = Frozen("s", TEXT, HTML).fill(name)
    assert "destiné à la personne du fichier." in text
    assert "destiné à la personne du fichier.</p>" in html


def test_an_sms_is_the_same_for_everyone():
    assert Frozen("", "Texte sans nom", "").fill("Hélène Martin") == ("Texte sans nom", "")


def test_html_in_a_name_is_text_to_the_reader():
    text, html = Frozen("s", TEXT, HTML).fill('<b>"Anne" & Co')
    assert '<b>"Anne" & Co' in text
    assert "&lt;b&gt;&quot;Anne&quot; &amp; Co" in html


def test_template_syntax_in_a_name_is_not_run():
    text, _ = Frozen("s", TEXT, HTML).fill("{{ 7 * 7 }}")
    assert "{{ 7 * 7 }}" in text


@given(st.text(max_size=300))
def test_no_name_changes_anything_but_its_own_place(name: str):
    text, html = Frozen("s", TEXT, HTML).fill(name)
    before, after = TEXT.split(notices.NAME_OPEN)[0], TEXT.split(notices.NAME_CLOSE)[1]
    assert text.startswith(before)
    assert text.endswith(after)
    said = text[len(before) : len(text) - len(after)]
    assert said.isprintable()
    assert said
    assert len(said) <= notices.MAX_NAME
    assert not notices.has_span(text + html)
    assert tags(html) == ["<p[]>", "<p[]>"]
    assert unescape(html) == f"<p>Ce message est destiné à {said}.</p><p>Fin.</p>"


@given(st.text(alphabet=st.characters(categories=["L", "Mn", "Zs"]), min_size=1, max_size=60))
def test_a_name_of_letters_reaches_the_reader_whole(name: str):
    name = clean_name(name)
    if name:
        assert f"destiné à {name}." in Frozen("s", TEXT, HTML).fill(name)[0]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("Dr\u202e Martin", "Dr Martin"),
        ("Dr\r\nBcc: x", "Dr Bcc: x"),
        ("a\u2028b", "a b"),
        ("  two   spaces\t", "two spaces"),
        ("zero\u200bwidth\ufeff", "zerowidth"),
        ("\ue000typed\ue001", "typed"),
        ("Cafe\u0301", "Café"),
        ("dit\u00a0: non", "dit\u00a0: non"),
    ],
)
def test_a_line_is_one_line_of_visible_text(value: str, expected: str):
    assert clean_line(value) == expected


def test_text_keeps_its_line_breaks():
    assert clean_text("a\r\nb\rc\n\nd\x00") == "a\nb\nc\n\nd"


@given(st.text())
def test_cleaning_twice_is_cleaning_once(value: str):
    assert clean_text(clean_text(value)) == clean_text(value)


def test_a_cell_of_megabytes_is_cut():
    assert clean_name("a" + " " * 2_000_000 + "b") == "a"


@pytest.mark.parametrize("subject", ["a\nBcc: x@example.com", "a\r\nb", "a\x00", f"a {span('b')}", "a" * 301])
def test_a_subject_that_is_not_one_plain_line_is_refused(subject: str):
    with pytest.raises(InputError):
        make_draft(subject=subject)


def test_an_sms_that_names_one_person_is_refused():
    with pytest.raises(InputError, match="household"):
        make_draft(channel=Channel.SMS, subject="", html="")


@pytest.mark.parametrize(
    "changes",
    [
        {"channel": Channel.SMS, "text": "x", "subject": ""},
        {"language": "en"},
        {"variant": Variant.COMMENT},
        {"subject": "Information "},
        {"text": TEXT + " "},
        {"html": HTML + " "},
        {"subject": "Informatio", "text": "n" + TEXT},
    ],
)
def test_every_field_counts_in_the_hash(changes: dict[str, object]):
    assert notices.digest_of(make_draft(**changes)) != notices.digest_of(make_draft())


def test_the_hash_of_a_notice_never_changes_between_releases():
    """Proof files hold it: a new form needs a new tag ("notice/2"), not a silent change."""
    sample = notices.digest("email", "fr", "standard", "é", "a\nb", "<p>")
    assert sample.hex() == "396bc3975994df2915a309e5cbda0483ce40a01e9308bf3803c12c173e7578b5"


def test_the_hash_of_a_campaign_does_not_depend_on_the_order_of_its_notices():
    one, two = make_draft(), make_draft(language="en")
    assert notices.hash_of([one, two]) == notices.hash_of([two, one])
    assert notices.hash_of([one]) != notices.hash_of([one, two])


@pytest.mark.parametrize(
    ("name", "practice", "expected"),
    [
        ("Dr Martin", "Cabinet des Lilas", "Dr Martin, Cabinet des Lilas"),
        ("Claire Martin", "Cabinet des Lilas", "Dr Claire Martin, Cabinet des Lilas"),
        ("Docteure Anne Test", "Cabinet des Lilas", "Docteure Anne Test, Cabinet des Lilas"),
        ("M. Anne-Marie Test", "Cabinet des Lilas", "M. Anne-Marie Test, Cabinet des Lilas"),
        ("M.-C. Test", "", "Dr M.-C. Test"),
        ("Dr Martin", "Cabinet du Dr Martin", "Cabinet du Dr Martin"),
        ("Dr Claire Martin", "Cabinet Claire Martin", "Cabinet Claire Martin"),
        ("Dr Claire Martin", "Cabinet Claire Martin-Dupont", "Dr Claire Martin, Cabinet Claire Martin-Dupont"),
        ("Dr Martin", "Cabinet du Dr Martinez", "Dr Martin, Cabinet du Dr Martinez"),
        ("Dr Martin", "Clinique Saint-Martin", "Dr Martin, Clinique Saint-Martin"),
        ("Dr Martin", "", "Dr Martin"),
        ("", "Cabinet des Lilas", "Cabinet des Lilas"),
        ("Dr Martin", "Cabinet " + "x" * 120, "Dr Martin"),
        ("Dr Martin\r\nBcc: spy@example.com", "Cabinet\u202e", "Dr Martin Bcc: spy@example.com, Cabinet"),
        ("", "", ""),
    ],
)
def test_a_sender_is_the_doctor_and_the_practice_and_nobody_twice(name: str, practice: str, expected: str):
    assert notices.sender_name(name, practice) == expected


@given(st.text(max_size=400), st.text(max_size=400))
def test_a_sender_is_one_plain_line_of_bounded_length(name: str, practice: str):
    sender = notices.sender_name(name, practice)
    assert len(sender) <= notices.MAX_SENDER
    assert sender == clean_line(sender)
