"""CSV of ours is safe in a spreadsheet and reads back to the same values."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from notifier import writing
from notifier.addresses import visible
from notifier.importers import open_list

SIGNS = "=+-@\t\r\n＝＋－＠"


def read_back(records: list[list[str]]) -> list[list[str]]:
    """Cells as the reader of lists has them, below a header."""
    names = ["email", *(f"donnée {place}" for place in range(2, len(records[0]) + 1))]
    data = writing.START + writing.lines([names, *records])
    with open_list(io.BytesIO(data)) as reader:
        return [list(row.fields) for row in reader]


def first_signs(data: bytes) -> set[str]:
    """What cells begin with, as a spreadsheet sees them."""
    rows = csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""), delimiter=";")
    return {cell[0] for row in rows for cell in row if cell}


@pytest.mark.parametrize(
    "value",
    ["=1+1", "+33639980001", "-2", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1", "'=1", "''=1", "'1", "0639980001", "01000",
     "06 39 98 00 01", "123456789012345", "2 75 03 99 123 456 78", "12/03/1975", "a;b", 'a "b" c', "é\nè", "l'été"],
)  # fmt: skip
def test_a_value_is_not_computed_and_reads_back(value):
    data = writing.line([value])
    assert first_signs(data).isdisjoint(SIGNS)
    (row,) = read_back([["a@example.fr", value]])
    assert visible(row[1]) == visible(value)


def test_zeros_and_long_numbers_are_kept_from_becoming_numbers():
    kept = ("'01000", "'0639980001", "'06 39 98 00 01", "'123456789012", "'+33639980001")
    assert writing.line(one[1:] for one in kept).decode().strip().split(";") == list(kept)
    assert writing.line(["75001", "12/03/1975", "P12", ""]) == b"75001;12/03/1975;P12;\r\n"


def test_french_excel_opens_it_right():
    assert writing.START.decode("utf-8") == "\ufeff"
    assert writing.line(["a", 1, None]) == b"a;1;\r\n"


def test_lines_that_could_be_taken_for_rows_become_one():
    assert writing.one_cell("a\r\nb\rc") == "a\nb\nc"
    assert writing.one_cell("rue A\nP2;Durand;x") == "rue A / P2;Durand;x"
    assert "\n" not in writing.one_cell("\n".join("x" * 40))


TEXT = st.text(
    st.one_of(
        st.sampled_from("=+-@\t\r\n'\";,|0123456789 aéÃ©\u00a0\u200b\u2028\x85＝"),
        st.characters(exclude_characters="\0", exclude_categories=["Cs"]),
    ),
    max_size=12,
)


@settings(deadline=None)
@given(st.lists(st.tuples(TEXT, TEXT, TEXT), min_size=1, max_size=6))
@example([('"', "", "\n;")])
@example([("'", "''", "'=")])
@example([("Ã©", "", "")])
@example([("a\n\n\nb", '"\n"', "x")])
def test_whatever_is_written_reads_back(rows):
    records = [["a@example.fr", *row] for row in rows]
    data = writing.lines(records)
    assert first_signs(data).isdisjoint(SIGNS)
    expected = [[visible(writing.one_cell(cell)) for cell in record] for record in records]
    assert [[visible(cell) for cell in row] for row in read_back(records)] == expected
