"""An OpenDocument spreadsheet is read as its author sees it, with the same promises as for XLSX."""

from __future__ import annotations

import contextlib
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from python_calamine import CalamineWorkbook

from notifier.addresses import visible
from notifier.errors import ListError
from notifier.importers import Code, Doubt, Format, RawList, RawRow, open_list
from tests.notifier.importers.books import Raw, ods, ods_table

HEADER = ["Nom", "Date de naissance", "Téléphone", "Email"]


def _read(content: bytes, **options) -> tuple[RawList, list[RawRow]]:
    with open_list(io.BytesIO(content), **options) as listing:
        return listing, list(listing)


def _cells(content: bytes) -> list[tuple[int, dict[str, list[str]]]]:
    return [(row.number, {str(c): values for c, values in row.cells.items()}) for row in _read(content)[1]]


def _date(value: str) -> Raw:
    return Raw(
        f'<table:table-cell office:value-type="date" office:date-value="{value}"><text:p>1/1/75</text:p></table:table-cell>'
    )


def test_values_are_taken_and_not_what_is_shown():
    rows = [
        HEADER,
        ["Zoé", _date("1975-01-01"), 639980001.0, "zoe@example.fr"],
        ["B", _date("1975-01-01T00:00:00"), 3.36e10, "b@example.fr"],
        [
            "C\nD",
            27395.0,
            Raw(
                '<table:table-cell office:value-type="string"><text:p>06<text:s text:c="2"/>39<text:tab/>98</text:p></table:table-cell>'
            ),
            "c@example.fr",
        ],
    ]
    listing, read = _read(ods(ods_table(rows)))
    assert (listing.format, listing.sheet, listing.header_number) == (Format.ODS, "Patients", 1)
    assert [{str(c): v for c, v in row.cells.items()} for row in read] == [
        {"last_name": ["Zoé"], "birth_date": ["1975-01-01"], "phone": ["639980001"], "email": ["zoe@example.fr"]},
        {"last_name": ["B"], "birth_date": ["1975-01-01"], "phone": ["3.36E+10"], "email": ["b@example.fr"]},
        {"last_name": ["C\nD"], "birth_date": ["1975-01-01"], "phone": ["06  39\t98"], "email": ["c@example.fr"]},
    ]


def test_repeated_rows_and_cells_are_each_there_and_empty_ones_are_not():
    rows = (
        "<table:table-row><table:table-cell><text:p>Nom</text:p></table:table-cell>"
        '<table:table-cell table:number-columns-repeated="2"/><table:table-cell><text:p>Email</text:p></table:table-cell>'
        '<table:table-cell table:number-columns-repeated="16380"/></table:table-row>'
        '<table:table-row table:number-rows-repeated="3"><table:table-cell/></table:table-row>'
        '<table:table-row table:number-rows-repeated="2"><table:table-cell table:number-columns-repeated="4" office:value-type="string"><text:p>a@example.fr</text:p></table:table-cell></table:table-row>'
        '<table:table-row table:number-rows-repeated="1048570"><table:table-cell table:number-columns-repeated="16384"/></table:table-row>'
    )
    content = ods(f'<table:table table:name="P">{rows}</table:table>')
    cell = {"last_name": ["a@example.fr"], "email": ["a@example.fr"]}
    assert _cells(content) == [(5, cell), (6, cell)]


def test_comments_drawings_and_tables_in_a_cell_are_not_its_text():
    inner = (
        '<table:table-cell office:value-type="string"><office:annotation><text:p>secret</text:p></office:annotation>'
        "<text:p>a@<text:span>example</text:span>.fr</text:p></table:table-cell>"
    )
    assert _cells(ods(ods_table([["Nom", "Email"], ["A", Raw(inner)]]))) == [
        (2, {"last_name": ["A"], "email": ["a@example.fr"]})
    ]


def test_hidden_rows_columns_and_sheets_are_said():
    styles = '<style:style style:name="ta2" style:family="table"><style:table-properties table:display="false"/></style:style>'
    table = ods_table([["Nom", "Email"], ["A", "a@example.fr"], ["B", "b@example.fr"]])
    table = table.replace(
        "<table:table-row>",
        '<table:table-column/><table:table-column table:visibility="collapse"/><table:table-row>',
        1,
    )
    head, last = table.rsplit("<table:table-row>", 1)
    table = f'{head}<table:table-row table:visibility="filter">{last}'
    old = ods_table([["Nom", "Email"], ["C", "c@example.fr"]], "Ancien", 'table:style-name="ta2"')
    listing, rows = _read(ods(old + table, styles=styles))
    assert [(row.number, list(row.doubts)) for row in rows] == [(2, []), (3, [Doubt.HIDDEN_ROW])]
    assert {(note.code, note.names) for note in listing.notes} == {
        (Code.SHEET_WITH_PATIENTS, ("Ancien",)),
        (Code.HIDDEN_ROWS, ()),
        (Code.HIDDEN_COLUMNS, ("Email",)),
    }


def test_errors_and_formulas_without_result_are_said():
    formula = '<table:table-cell table:formula="of:=A1" {}>{}</table:table-cell>'
    cells = [
        formula.format('office:value-type="string" office:string-value=""', "<text:p>#N/A</text:p>"),
        formula.format("", ""),
        formula.format('office:value-type="string"', "<text:p>0639980001</text:p>"),
        '<table:table-cell office:value-type="float" office:value="x"/>',
    ]
    _, rows = _read(ods(ods_table([["Téléphone", "Nom"], *[[Raw(cell), "A"] for cell in cells]])))
    assert [list(row.doubts) for row in rows] == [[Doubt.CELL_ERROR], [Doubt.NO_RESULT], [], [Doubt.CELL_ERROR]]


def test_several_sheets_with_patients_are_asked_about_and_one_is_read():
    tables = "".join(ods_table([["Nom", "Email"], *[[name, "a@example.fr"]] * 60], name) for name in "AB")
    with open_list(io.BytesIO(ods(tables))) as listing:
        assert listing.questions[0].options == ("A", "B")
    for name in "AB":
        assert {
            cells["last_name"][0] for _, cells in [(r.number, r.cells) for r in _read(ods(tables), sheet=name)[1]]
        } == {name}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (ods(""), "no sheet"),
        (ods(ods_table([["Nom", "Email"], ["A", "x" * 200_001]])), "more than 200,000 characters"),
        (
            ods(
                ods_table(
                    [
                        ["Nom", "Email"],
                        [
                            Raw(
                                '<table:table-cell table:number-columns-repeated="900" office:value-type="float" office:value="1"/>'
                            )
                        ],
                    ]
                )
            ),
            "500 are allowed",
        ),
        (
            ods(
                ods_table([["Nom", "Email"]] * 2).replace(
                    "<table:table-row>", '<table:table-row table:number-rows-repeated="99999999999">'
                )
            ),
            "1,048,576 are possible",
        ),
        (ods("", changes={"content.xml": "<!DOCTYPE a><a/>"}), "DOCTYPE"),
        (ods("", changes={"content.xml": "no xml"}), "damaged"),
        (ods(ods_table([["Mode"], ["d'emploi"]])), "no header row"),
        (ods("".join(ods_table([["Nom"]], str(n)) for n in range(201))), "more than 200 sheets"),
    ],
)
def test_a_trap_or_a_damaged_document_is_refused_in_plain_words(content, words):
    with pytest.raises(ListError, match=words):
        _read(content)


_TEXT = st.text(st.characters(codec="latin-1", min_codepoint=33, exclude_categories=["Cc"]), max_size=12)


@given(st.lists(st.tuples(_TEXT, st.integers(0, 10**14)), min_size=1, max_size=8))
def test_texts_and_numbers_are_read_as_another_reader_reads_them(rows):
    content = ods(ods_table([["Email", "Code postal"], *[[f"x{text}", number] for text, number in rows]]))
    others = CalamineWorkbook.from_filelike(io.BytesIO(content)).get_sheet_by_index(0).to_python()[1:]
    ours = [(cells["email"][0], cells["postal_code"][0]) for _, cells in _cells(content)]
    assert ours == [(visible(str(text)), str(int(number))) for text, number in others]


_PART = "<table:table-row><table:table-cell table:number-columns-repeated='2'><text:p>x<text:s text:c='3'/></text:p></table:table-cell></table:table-row>"


@given(st.binary(max_size=200), st.integers(0, 10**6))
def test_no_changed_content_crashes_the_reader(junk, place):
    plain = ods_table([["Nom", "Email"], ["A", "a@example.fr"]]) + f"<table:table>{_PART}</table:table>"
    part = bytearray(f"<a>{plain}</a>".encode())
    at = place % len(part)
    part[at : at + len(junk) // 2] = junk
    with contextlib.suppress(ListError):
        assert all(row.number > 0 for row in _read(ods("", changes={"content.xml": bytes(part)}))[1])
