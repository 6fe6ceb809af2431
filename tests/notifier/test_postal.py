"""A letter finds its way: codes and towns repaired only where one reading is possible, lines that fit a window."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from notifier.postal import LINE, LINES, department, from_lines, place, window_lines


@pytest.mark.parametrize(
    ("code", "town", "expected"),
    [
        ("1000", "Bourg-en-Bresse", ("01000", "Bourg-en-Bresse")),
        ("01000", "Bourg", ("01000", "Bourg")),
        ("75001.0", "Paris", ("75001", "Paris")),
        ("75 001", "Paris", ("75001", "Paris")),
        ("F-75001", "Paris", ("75001", "Paris")),
        ("FR 75001", "Paris", ("75001", "Paris")),
        ("20090", "Ajaccio", ("20090", "Ajaccio")),
        ("97400", "Saint-Denis", ("97400", "Saint-Denis")),
        (None, "75001 Paris", ("75001", "Paris")),
        (None, "1000 Bourg", ("01000", "Bourg")),
        (None, "Paris (75001)", ("75001", "Paris")),
        (None, "Paris 75001", ("75001", "Paris")),
        ("75001 Paris", None, ("75001", "Paris")),
        ("75001", "75001 Paris", ("75001", "Paris")),
        ("75001", "Paris  CEDEX 01", ("75001", "Paris  CEDEX 01")),
        ("2A004", "Ajaccio", ("2A004", "Ajaccio")),
        ("750", "Paris", ("750", "Paris")),
        (None, "Paris", (None, "Paris")),
        ("", "", (None, None)),
        (None, None, (None, None)),
    ],
)
def test_a_code_is_repaired_where_one_reading_is_possible(code, town, expected):
    assert place(code, town) == expected


@pytest.mark.parametrize(("region", "country"), [("FR", "Belgique"), ("FR", "CH"), ("BE", None), ("LU", None)])
def test_four_digits_abroad_are_four_digits(region, country):
    assert place("1000", "Bruxelles", region, country).code == "1000"


@pytest.mark.parametrize("country", ["France", "FRANCE", "fr", None, ""])
def test_france_may_be_written_in_any_way(country):
    assert place("1000", "Bourg", "FR", country).code == "01000"


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("01000", "01"), ("75011", "75"), ("20000", "2A"), ("20167", "2A"), ("20200", "2B"), ("20290", "2B"),
        ("97110", "971"), ("97600", "976"), ("98000", "980"), ("1000", None), ("2A004", None), (None, None),
    ],
)  # fmt: skip
def test_the_department_of_a_code(code, expected):
    assert department(code) == expected


def test_code_and_town_at_the_end_of_an_address():
    assert from_lines(("1 rue A", "Bât. 2, 75001 Paris")) == (("1 rue A", "Bât. 2"), ("75001", "Paris"))
    assert from_lines(("12345 rue",)) == ((), ("12345", "rue"))
    assert from_lines(("1 rue A",)) == (("1 rue A",), (None, None))
    assert from_lines(()) == ((), (None, None))


def test_an_address_for_a_window():
    lines = window_lines("Mme Zoé d'Arc", ("Appt. 4, 2e étage", "3 bis, rue de l’Église"), "75001", "Paris")
    assert lines == ["MME ZOE D'ARC", "APPT 4 2E ETAGE", "3 BIS RUE DE L'EGLISE", "75001 PARIS"]


def test_a_long_line_is_shortened_and_then_broken_but_never_cut():
    street = "Résidence des Grands Peupliers Bâtiment Maréchal de Lattre de Tassigny"
    lines = window_lines("Jean Exemple", (street,), "01000", "Bourg")
    assert lines == [
        "JEAN EXEMPLE", "RES DES GRANDS PEUPLIERS BAT MAL DE", "LATTRE DE TASSIGNY", "01000 BOURG"
    ]  # fmt: skip


def test_a_country_stands_last_and_alone():
    assert window_lines("Jean", ("1 rue A",), "1000", "Bruxelles", "Belgique") == [
        "JEAN", "1 RUE A", "1000 BRUXELLES", "BELGIQUE"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "address", "code", "town"),
    [
        ("", ("1 rue A",), "75001", "Paris"),
        ("Jean", (), "75001", "Paris"),
        ("Jean", ("--",), "75001", "Paris"),
        ("Jean", ("1 rue A",), None, "Paris"),
        ("Jean", ("1 rue A",), "75001", None),
        ("Jean", tuple(f"ligne {n}" for n in range(5)), "75001", "Paris"),
        ("Jean", ("x" * 39,), "75001", "Paris"),
    ],
)
def test_what_does_not_fit_goes_to_a_person(name, address, code, town):
    assert window_lines(name, address, code, town) is None


_words = st.text(alphabet="abcdé -',.0129\n\u200bß", max_size=60)


@settings(deadline=None)
@given(_words, st.lists(_words, max_size=4), _words, _words, _words)
def test_lines_always_fit_and_keep_every_letter_of_the_name(name, address, code, town, country):
    lines = window_lines(name, tuple(address), code, town, country)
    if lines is not None:
        assert len(lines) <= LINES + 1
        assert all(0 < len(line) <= LINE and line == line.strip() for line in lines)


@settings(deadline=None)
@given(
    st.none() | _words, st.none() | _words, st.sampled_from(["FR", "BE", "RE"]), st.sampled_from([None, "France"])
)
def test_repairing_twice_changes_nothing(code, town, region, country):
    once = place(code, town, region, country)
    assert place(*once, region, country) == once
