"""Each code of a list has a sentence in two languages that says what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from notifier import sentences
from notifier.addresses import Reason
from notifier.changes import Change
from notifier.importers import Doubt
from notifier.judging import RowReason

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
    for code, (french, english) in sentences.codes().items():
        assert f"| `{code}` | {french} | {english} |" in page
