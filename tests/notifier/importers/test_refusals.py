"""Each refusal of a whole list says in two languages what is wrong and what to do, with the values it is raised with."""

from __future__ import annotations

import ast
import io
from pathlib import Path
from string import Formatter

import pytest

from notifier.errors import InputError, ListError
from notifier.importers import open_list
from notifier.importers.refusals import KINDS, Refusal, as_error, refused, words_of

PACKAGE = Path(__file__).parents[3] / "notifier"


def _names(words: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(words) if name}


@pytest.mark.parametrize("why", Refusal)
def test_a_refusal_says_the_same_in_both_languages(why):
    french, english = words_of(why)
    assert french != english
    assert _names(french) == _names(english)
    for words in (french, english):
        assert words[0].isupper()
        assert words.endswith((".", "}"))
        assert words.count(". ") + words.count("? ") + words.count(": ") >= 1, "what it is, and what to do"


def _raised() -> list[tuple[str, set[str], str]]:
    """Each refusal in the code, with the names of its values and where it stands."""
    found = []
    for path in PACKAGE.rglob("*.py"):
        source = path.read_text(encoding="utf-8")
        if "Refusal." not in source or path.name == "refusals.py":
            continue
        for call in ast.walk(ast.parse(source)):
            if isinstance(call, ast.Call) and getattr(call.func, "id", "") in ("refused", "as_error"):
                names = {str(keyword.arg) for keyword in call.keywords}
                where = f"{path.name}:{call.lineno}"
                found += [
                    (node.attr, names, where)
                    for argument in call.args
                    for node in ast.walk(argument)
                    if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "Refusal"
                ]
    return found


def test_every_refusal_is_raised_with_the_values_its_words_need():
    raised = _raised()
    assert {name for name, _, _ in raised} == set(Refusal.__members__)
    for name, values, where in raised:
        assert values == _names(words_of(Refusal[name])[0]), where


def test_values_are_written_as_each_language_writes_them_and_names_cut():
    error = refused(Refusal.TOO_LARGE, size=1234567, most=1000)
    assert "1\u202f234\u202f567 octets" in error.in_language("fr")
    assert "1,234,567 bytes" in error.message == error.in_language("en")
    assert (error.code, error.values) == ("list_too_large", {"size": 1234567, "most": 1000})
    assert "ligne 12345 " in as_error(InputError, Refusal.NO_SUGGESTION, row=12345).in_language("fr")
    sheets = refused(Refusal.UNKNOWN_SHEET, wanted="x\u202e" * 99, names=["Un", "Deux"])
    assert "« Un », « Deux »" in sheets.in_language("fr")
    assert f"'{'x' * 40}'" in sheets.message


def test_a_file_of_another_kind_is_refused_in_both_languages():
    with pytest.raises(ListError) as raised, open_list(io.BytesIO(b"%PDF-1.7")):
        pass
    assert raised.value.in_language("fr").startswith("Le fichier n'est pas une liste : un document PDF.")
    assert raised.value.in_language("de") == raised.value.message
    assert all(french != english for french, english in KINDS.values())


def test_an_open_question_is_asked_in_both_languages():
    with open_list(io.BytesIO(b"nom;Contact\nA;x\n")) as reader, pytest.raises(ListError) as raised:
        list(reader)
    assert "La colonne « Contact » peut être" in raised.value.in_language("fr")
    assert "The column 'Contact' could be" in raised.value.message
