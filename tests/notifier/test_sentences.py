"""Each code of a list has a sentence in two languages that says what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from notifier import notices, sentences
from notifier.addresses import Reason
from notifier.changes import Change
from notifier.errors import ConflictError, SealingError
from notifier.importers import Doubt
from notifier.judging import RowReason
from notifier.sealing import MasterKey
from workers import breaker

CODES = [code for kind in (Reason, RowReason, Doubt, Change) for code in kind]


@pytest.mark.parametrize("code", CODES)
def test_a_code_says_what_it_is_and_what_to_do_in_both_languages(code):
    french, english = sentences.sentence(str(code))
    assert french != english
    assert str(code) in sentences._ADVICE
    for words in (french, english):
        assert words[0].isupper()
        assert words.endswith((".", ")"))
        assert len(words.split()) > 3
    assert code.replace("_", " ") not in (french, english)


def test_no_two_kinds_of_codes_share_a_name():
    assert len(sentences.codes()) == len(CODES)


def test_the_language_is_french_or_english_and_an_unknown_code_is_said_as_it_is():
    french, english = sentences.sentence("filler")
    assert sentences.in_language("filler", "fr") == french
    assert sentences.in_language("filler", "de") == english
    assert sentences.in_language("brand_new", "en").startswith("brand new ")


def test_the_page_on_lists_has_every_code_with_its_sentences():
    page = (Path(__file__).parents[2] / "docs" / "lists.md").read_text(encoding="utf-8")
    for code, (french, english) in (sentences.codes() | sentences.refusals()).items():
        assert f"| `{code}` | {french} | {english} |" in page


def test_every_reason_that_a_breaker_writes_has_a_french_sentence():
    codes = [
        "http_401",
        "http_402",
        "smtp_421",
        "connect_failed",
        "timeout",
        "http_503",
        "smtp_550_5.7.1",
        "http_400",
    ]
    written = [
        breaker.plain_reason(provider, code)
        for provider in ("smtp", "brevo-sms", "brevo-email", "another")
        for code in (*codes, "odd")
    ]
    written += [breaker.receiver_reason("orange", code) for code in ("smtp_421", "smtp_550_5.7.1")]
    assert len({beginnings for beginnings, _ in breaker._REASONS}) == len(codes) + 1
    for english in written:
        french = sentences.reason(english, "fr")
        code = english[english.index("(") :].split(")")[0]
        assert french != english
        assert code in french, "what it was, for whoever asks the provider"
        assert " check " not in french
        assert " and " not in french
        assert sentences.reason(english, "en") == english


def test_every_reason_of_a_pause_has_a_french_sentence():
    with pytest.raises(ConflictError) as none:
        notices.approved(7, [], None)
    with pytest.raises(ConflictError) as altered:
        notices.approved(7, [], b"x")
    with pytest.raises(SealingError) as erased:
        MasterKey(b"k" * 32).open_data_key(None, 7)
    with pytest.raises(SealingError) as missing:
        MasterKey(b"k" * 32).open_data_key(b"0" * 64, 7)
    with pytest.raises(SealingError) as another:
        MasterKey(b"k" * 32).open_data_key(MasterKey(b"k" * 32).new_data_key(8), 7)
    for error in (none, altered, erased, missing, another):
        assert "7" in sentences.reason(error.value.message, "fr")
        assert sentences.reason(error.value.message, "fr") != error.value.message


@pytest.mark.parametrize("typed", ["Mauvaise liste", "The provider fails, I think.", "{n}", "12 of 40"])
def test_a_persons_own_words_stay_as_typed(typed):
    assert sentences.reason(typed, "fr") == typed
