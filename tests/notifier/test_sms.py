"""A text is charged as measured, and what is replaced costs the reader nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notifier.sms import measure


@pytest.mark.parametrize(
    ("text", "encoding", "units", "parts"),
    [
        ("", "GSM-7", 0, 0),
        ("1" * 160, "GSM-7", 160, 1),
        ("1" * 161, "GSM-7", 161, 2),
        ("1" * 306, "GSM-7", 306, 2),
        ("1" * 307, "GSM-7", 307, 3),
        ("é" * 918, "GSM-7", 918, 6),
        ("é" * 919, "GSM-7", 919, 7),
        ("àèéùìòÇÉÄÖÑÜ", "GSM-7", 12, 1),
        ("^" * 80, "GSM-7", 160, 1),
        ("^" * 81, "GSM-7", 162, 2),
        ("prix : 5 €", "GSM-7", 11, 1),
        ("й" * 70, "UCS-2", 70, 1),
        ("й" * 71, "UCS-2", 71, 2),
        ("й" * 134, "UCS-2", 134, 2),
        ("й" * 135, "UCS-2", 135, 3),
        ("😀" * 35, "UCS-2", 70, 1),
        ("😀" + "]" * 68, "UCS-2", 70, 1),
        ("مرحبا", "UCS-2", 5, 1),
    ],
)
def test_units_and_parts(text, encoding, units, parts):
    measured = measure(text)
    assert (measured.encoding, measured.units, measured.parts) == (encoding, units, parts)


def test_an_extension_character_is_not_split_over_two_parts():
    # 152 septets, then a pair that does not fit into the 153rd: division would say two parts
    assert measure("1" * 152 + "€" + "1" * 152).parts == 3
    assert measure("1" * 151 + "€" + "1" * 153).parts == 2


def test_a_surrogate_pair_is_not_split_over_two_parts():
    assert measure("й" * 66 + "😀" + "й" * 66).parts == 3
    assert measure("й" * 65 + "😀" + "й" * 67).parts == 2


@pytest.mark.parametrize(
    ("text", "sent", "replaced"),
    [
        ("– — … ‘ ’ “ ”", "- - ... ' ' \" \"", "–—…‘’“”"),
        ("l’accès « sûr » au cœur", 'l\'accès " sur " au coeur', "’«û»œ"),
        ("François, Benoît, Noël, Maëlys", "Francois, Benoit, Noel, Maelys", "çîë"),
        ("À bientôt, Ève\u00a0!", "A bientot, Eve !", "ÀôÈ\u00a0"),
        ("n\u00b0 5", "no 5", ""),
        ("a\u200bb\ufeffc", "abc", "\u200b\ufeff"),
        ("e\u0301te\u0301", "été", ""),
        ("Ça", "Ça", ""),
        ("un\r\ndeux\rtrois\n", "un\ndeux\ntrois", ""),
    ],
)
def test_what_a_reader_does_not_miss_is_replaced(text, sent, replaced):
    measured = measure(text)
    assert measured.encoding == "GSM-7"
    assert measured.text == sent
    assert set(measured.replaced) == set(replaced)


@pytest.mark.parametrize("text", ["Cœur ’ ç 😀", "François – 你好", "20° ’", "It works™ ç"])
def test_a_text_that_needs_ucs_2_keeps_every_letter(text):
    measured = measure(text)
    assert (measured.encoding, measured.text, measured.replaced) == ("UCS-2", text, ())


@given(st.text(max_size=400))
def test_measuring_what_was_measured_changes_nothing(text):
    once = measure(text)
    again = measure(once.text)
    assert (again.encoding, again.units, again.parts, again.text) == (
        once.encoding,
        once.units,
        once.parts,
        once.text,
    )
    assert again.replaced == ()
    room = 153 if once.encoding == "GSM-7" else 67
    assert once.parts * room >= once.units or once.parts == 1
    assert "?" not in once.text or "?" in text


def test_published_segment_counts(shared: Path):
    """Rows that count a letter such as ç or ÿ as UCS-2, or an emoji as "?", differ on purpose: we send `c`
    for `ç` (the reader loses nothing) and never `?` for an emoji. All others must agree."""
    vectors = json.loads((shared / "cases/data/sms/segment_vectors.json").read_text())
    compared = 0
    for vector in vectors:
        measured = measure(vector["text"])
        if measured.replaced or "note" in vector:
            continue
        compared += 1
        assert measured.parts == vector["fragments"], vector["text"][:20]
        assert measured.encoding == vector.get("encoding", measured.encoding)
    assert compared > 45


def test_the_published_alphabet_is_ours(shared: Path):
    for entry in json.loads((shared / "cases/data/sms/gsm0338_table.json").read_text()).values():
        character = entry["char"]
        measured = measure(f"a{character}a")
        if character != "\r":  # sent as a line feed
            assert (measured.text, measured.units) == (f"a{character}a", 2 + len(entry["septets"]))


def test_published_cases(shared: Path):
    lines = (shared / "cases/cases.jsonl").read_text().strip().split("\n")
    cases = {case["id"]: case for case in map(json.loads, lines) if case["area"] == "sms"}
    assert cases
    assert measure(" \n").parts == 0  # what sms-022 asks to be refused: a text that comes out empty
    for case in cases.values():
        if case["id"] == "sms-022":
            continue
        expected, measured = case["expected"], measure(case["input"])
        expected = expected.get("after_smart_encoding", expected)
        assert measured.encoding == expected.get("encoding", measured.encoding), case["id"]
        assert measured.parts == expected.get("segments", measured.parts), case["id"]
        assert measured.units == expected.get("septets", measured.units), case["id"]
        assert measured.text == expected.get("sent", expected.get("downgraded", measured.text)), case["id"]


def test_letters_whose_bar_or_dot_is_no_accent_lose_it_where_the_text_then_fits():
    assert (measure("Đặng đ ı").encoding, measure("Đặng đ ı").text) == ("GSM-7", "Dang d i")
