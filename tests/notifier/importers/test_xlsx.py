"""A spreadsheet is read as its author sees it; what cannot be read in it is said, and nothing exhausts the machine."""

from __future__ import annotations

import contextlib
import io
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st
from python_calamine import CalamineWorkbook

from notifier.addresses import visible
from notifier.errors import ListError
from notifier.importers import Code, Column, Doubt, Format, Limits, RawList, RawRow, open_list
from notifier.importers.sheets import from_serial, number_text
from notifier.importers.xlsx import shows_date
from tests.notifier.importers.books import MAIN, Raw, xlsx, xlsx_sheet

HEADER = ["N° patient", "Nom", "Date de naissance", "Téléphone", "Email"]


def _read(content: bytes, **options) -> tuple[RawList, list[RawRow]]:
    with open_list(io.BytesIO(content), **options) as listing:
        return listing, list(listing)


def _cells(content: bytes, **options) -> list[tuple[int, dict[str, list[str]]]]:
    return [
        (row.number, {str(c): values for c, values in row.cells.items()}) for row in _read(content, **options)[1]
    ]


def test_a_plain_workbook_is_read():
    listing, rows = _read(xlsx([HEADER, [1, "Zoé", "01/01/1975", "06 39 98 00 01", "zoe@example.fr"]]))
    assert (listing.format, listing.sheet, listing.header_number) == (Format.XLSX, "Patients", 1)
    assert rows == [
        RawRow(
            2,
            {
                Column.PATIENT_ID: ["1"],
                Column.LAST_NAME: ["Zoé"],
                Column.BIRTH_DATE: ["01/01/1975"],
                Column.PHONE: ["06 39 98 00 01"],
                Column.EMAIL: ["zoe@example.fr"],
            },
            [],
        )
    ]


@pytest.mark.parametrize(
    ("value", "column", "text", "doubt"),
    [
        (612345678.0, Column.PHONE, "612345678", None),
        (33639980001.0, Column.PHONE, "33639980001", None),
        # three significant digits were all that was left: 06 00 00 00 00 would be a stranger's
        (3.36e10, Column.PHONE, "3.36E+10", None),
        (3.36123e10, Column.PHONE, "3.36123E+10", None),
        (600000000.0, Column.PHONE, "6.0E+08", None),
        (639980000.0, Column.PHONE, "639980000", None),
        (1234567890123456.0, Column.PHONE, "1.23456789012346E+15", None),
        (1000000000.0, Column.PATIENT_ID, "1000000000", None),
        (123456789012345.0, Column.PATIENT_ID, "123456789012345", None),
        (1234567890123456.0, Column.PATIENT_ID, "1.23456789012346E+15", Doubt.DIGITS_LOST),
        (1000.0, Column.POSTAL_CODE, "1000", None),
        (27395.0, Column.BIRTH_DATE, "1975-01-01", None),
        (1975.0, Column.BIRTH_DATE, "1975", None),
        (19750101.0, Column.BIRTH_DATE, "19750101", None),
        (27395.0, Column.LAST_NAME, "27395", None),
        (1.5, None, "1.5", None),
        (-1.0, None, "-1", None),
        (float("nan"), Column.PHONE, "", Doubt.CELL_ERROR),
        (float("inf"), Column.PHONE, "", Doubt.CELL_ERROR),
    ],
)
def test_a_number_becomes_the_text_that_was_meant_or_shows_its_loss(value, column, text, doubt):
    assert number_text(value, column) == (text, doubt)


@pytest.mark.parametrize(
    ("serial", "day"),
    [
        (1, "1900-01-01"),
        (59, "1900-02-28"),
        (60, None),
        (61, "1900-03-01"),
        (27395, "1975-01-01"),
        (27395.5, "1975-01-01T12:00:00"),
        (0, None),
        (-3, None),
        (2958466, None),
        (1e300, None),
    ],
)
def test_serials_are_dates_of_the_1900_system(serial, day):
    assert from_serial(serial) == day


@pytest.mark.parametrize(
    ("code", "is_date"),
    [
        ("dd/mm/yyyy", True),
        ("[$-40C]d mmmm yyyy;@", True),
        ("m/d/yy h:mm", True),
        ("General", False),
        ("0", False),
        ('0#" "##" "##" "##" "##', False),
        ("[Red]0.00", False),
        ('0" mobile"', False),
        ("\\d0", False),
        ("#,##0.00 [$€-40C]", False),
        ("0.00E+00", False),
        ("@", False),
    ],
)
def test_date_formats_are_told_from_others(code, is_date):
    assert shows_date(code) is is_date


def _styled(value: object, style: int) -> Raw:
    return Raw(f'<c r="{{r}}" s="{style}"><v>{value}</v></c>')


def test_dates_phones_and_formulas_as_a_spreadsheet_holds_them():
    rows = [
        HEADER,
        [1, "A", _styled(27395, 1), 639980001, "a@example.fr"],
        [2, "B", _styled("27395.0", 1), _styled(639980002, 2), "b@example.fr"],
        [
            3,
            "C",
            Raw('<c r="{r}" t="d"><v>1975-01-01T00:00:00</v></c>'),
            Raw('<c r="{r}" t="str"><f>"0"&amp;B2</f><v>0639980003</v></c>'),
            "c@example.fr",
        ],
        # a number in a cell that is formatted as a date
        [4, "D", 27395, _styled(639980004, 1), Raw('<c r="{r}" t="s"><f>X</f><v>0</v></c>')],
    ]
    content = xlsx(rows, styles=["dd/mm/yyyy", '0#" "##" "##'], shared=["<t>d@example.fr</t>"])
    read = _cells(content)
    assert [cells["birth_date"] for _, cells in read] == [["1975-01-01"]] * 4
    assert [cells["phone"] for _, cells in read] == [["639980001"], ["639980002"], ["0639980003"], ["639980004"]]
    assert [cells["email"] for _, cells in read] == [[f"{name}@example.fr"] for name in "abcd"]


def test_the_1904_system_is_followed():
    content = xlsx(
        [HEADER, [1, "A", _styled(25933, 1), None, "a@example.fr"], [2, "B", 25933]],
        styles=["d/m/yy"],
        date1904=True,
    )
    assert [cells["birth_date"] for _, cells in _cells(content)] == [["1975-01-01"]] * 2


def test_texts_that_cells_share_keep_formats_apart_from_readings():
    shared = [
        "<t>Nom</t>",
        "<t>Email</t>",
        '<r><rPr><b/></rPr><t>Mar</t></r><r><t xml:space="preserve">tin </t></r>',
        '<t>東</t><rPh sb="0" eb="1"><t>ヒガシ</t></rPh>',
        "<t>a&amp;b&lt;@example.fr</t>",
        "",
    ]
    cell = '<c r="{{r}}" t="s"><v>{}</v></c>'
    rows = [[Raw(cell.format(n)) for n in row] for row in ([0, 1], [2, 4], [3, 4], [5, 4])]
    assert _cells(xlsx(rows, shared=shared)) == [
        (2, {"last_name": ["Martin"], "email": ["a&b<@example.fr"]}),
        (3, {"last_name": ["東"], "email": ["a&b<@example.fr"]}),
        (4, {"email": ["a&b<@example.fr"]}),
    ]


def test_what_a_cell_does_not_say_is_said():
    rows = [
        HEADER,
        [1, "A", None, Raw('<c r="{r}" t="e"><f>VLOOKUP(1)</f><v>#N/A</v></c>'), "a@example.fr"],
        [2, "B", None, Raw('<c r="{r}"><f>"0"&amp;C2</f></c>'), "b@example.fr"],
        [Raw('<c r="{r}"><v>12345678901234567</v></c>'), "C", None, None, "c@example.fr"],
        [4, "D", None, Raw('<c r="{r}"><v>not a number</v></c>'), "d@example.fr"],
        [
            5,
            "E",
            Raw('<c r="{r}" t="s"><f>A1</f></c>'),
            Raw('<c r="{r}" t="str"><f>A1</f><v></v></c>'),
            "e@example.fr",
        ],
    ]
    _, read = _read(xlsx(rows))
    assert [list(row.doubts) for row in read] == [
        [Doubt.CELL_ERROR],
        [Doubt.NO_RESULT],
        [Doubt.DIGITS_LOST],
        [Doubt.CELL_ERROR],
        [Doubt.NO_RESULT],
    ]
    assert all(Column.PHONE not in row.cells for row in read)


def test_an_error_in_a_column_that_is_not_read_harms_nobody():
    _, read = _read(
        xlsx([["Nom", "Âge", "Email"], ["A", Raw('<c r="{r}" t="e"><v>#VALUE!</v></c>'), "a@example.fr"]])
    )
    assert [list(row.doubts) for row in read] == [[]]


def test_hidden_rows_and_columns_are_read_and_said():
    part = xlsx_sheet(
        [["Liste"], HEADER, [1, "A", None, None, "a@example.fr"], [2, "B", None, None, "b@example.fr"]],
        hidden=[1, 4],
        cols='<cols><col min="5" max="16384" hidden="1"/></cols>',
        tail='<mergeCells><mergeCell ref="A1:E1"/><mergeCell ref="B3:B4"/></mergeCells>',
    )
    listing, rows = _read(xlsx({"P": part}))
    assert [(row.number, list(row.doubts)) for row in rows] == [(3, []), (4, [Doubt.HIDDEN_ROW])]
    assert {(note.code, note.count, note.names) for note in listing.notes} == {
        (Code.TITLE_LINES, 1, ()),
        (Code.HIDDEN_ROWS, 1, ()),
        (Code.HIDDEN_COLUMNS, 1, ("Email",)),
        (Code.MERGED_CELLS, 1, ()),
    }
    assert all(words for note in listing.notes for words in note.words())


PATIENTS = xlsx_sheet([["Nom", "Email"], ["A", "a@example.fr"]])
OTHERS = xlsx_sheet([["Nom", "Email"], ["B", "b@example.fr"]])
NOTHING = xlsx_sheet([["Mode d'emploi"], ["Remplir la liste"]])
HEADER_ONLY = xlsx_sheet([["Nom", "Email"]])


def test_the_one_sheet_with_patients_is_taken_wherever_it_stands():
    listing, rows = _read(xlsx({"Aide": NOTHING, "Vide": HEADER_ONLY, "Liste": PATIENTS}))
    assert (listing.sheet, len(rows)) == ("Liste", 1)
    assert [(note.code, note.names) for note in listing.notes] == [(Code.OTHER_SHEET, ("Aide", "Vide"))]


def test_several_sheets_with_patients_are_asked_about():
    content = xlsx({"2024": PATIENTS, "2025": OTHERS})
    with open_list(io.BytesIO(content)) as listing:
        (question,) = listing.questions
        assert (question.subject, question.options) == ("sheet", ("2024", "2025"))
        with pytest.raises(ListError, match="'2024', '2025'"):
            list(listing)
    listing, rows = _read(content, sheet="2025")
    assert rows[0].cells[Column.LAST_NAME] == ["B"]
    assert [(note.code, note.names) for note in listing.notes] == [(Code.SHEET_WITH_PATIENTS, ("2024",))]
    with pytest.raises(ListError, match="no sheet 'x'"):
        _read(content, sheet="x")


@pytest.mark.parametrize("state", ["hidden", "veryHidden"])
def test_a_hidden_sheet_is_never_taken_or_lost_in_silence(state):
    listing, rows = _read(xlsx({"Liste": PATIENTS, "Ancien": OTHERS}, states={"Ancien": state}))
    assert [row.cells[Column.LAST_NAME] for row in rows] == [["A"]]
    assert [(note.code, note.names) for note in listing.notes] == [(Code.SHEET_WITH_PATIENTS, ("Ancien",))]
    with open_list(io.BytesIO(xlsx({"Aide": NOTHING, "Ancien": OTHERS}, states={"Ancien": state}))) as asked:
        assert asked.questions[0].options == ("Ancien",)
        with pytest.raises(ListError, match="hidden"):
            list(asked)


def test_a_sheet_that_claims_one_cell_is_read_to_its_end():
    part = xlsx_sheet([["Nom", "Email"], *[[f"N{n}", f"n{n}@example.fr"] for n in range(499)]]).replace(
        "<sheetData>", '<dimension ref="A1"/><sheetData>'
    )
    assert len(_cells(xlsx({"P": part}))) == 499


def test_formats_down_to_the_last_row_are_no_rows():
    rows = "".join(f'<row r="{n}" s="1" customFormat="1"><c r="A{n}" s="1"/></row>' for n in range(4, 60_000))
    part = PATIENTS.replace("</sheetData>", rows + '<row r="1048576"><c r="XFD1048576" s="1"/></row></sheetData>')
    assert len(_cells(xlsx({"P": part}))) == 1


def test_cells_without_places_in_any_order_and_prefixed_names_are_read():
    cells = '<row><c t="inlineStr"><is><t>Nom</t></is></c><c t="inlineStr"><is><t>Email</t></is></c></row>'
    more = '<row r="7"><c r="B7" t="inlineStr"><is><t>a@example.fr</t></is></c><c r="A7" t="inlineStr"><is><t>A</t></is></c></row>'
    part = f'<worksheet xmlns="{MAIN}"><sheetData>{cells}{more}</sheetData></worksheet>'
    expected = [(7, {"last_name": ["A"], "email": ["a@example.fr"]})]
    assert _cells(xlsx({"P": part})) == expected
    prefixed = part.replace("<", "<x:").replace("<x:/", "</x:").replace("xmlns=", "xmlns:x=")
    assert _cells(xlsx({"P": prefixed})) == expected


@pytest.mark.parametrize("encoding", ["utf-16", "iso-8859-1"])
def test_parts_in_other_encodings_are_read(encoding):
    part = PATIENTS.replace("UTF-8", encoding).replace(">A<", ">Zoé<").encode(encoding)
    assert _cells(xlsx({"P": ""}, changes={"xl/worksheets/sheet1.xml": part}))[0][1]["last_name"] == ["Zoé"]


def test_comments_and_character_data_in_the_xml_are_read_as_such():
    part = PATIENTS.replace(">A<", "><![CDATA[A</row>]]>B&#233;<!-- </row> --><").replace(
        '<row r="2"', '<!-- x --><row r="2"'
    )
    assert _cells(xlsx({"P": part})) == [(2, {"last_name": ["A</row>Bé"], "email": ["a@example.fr"]})]


def _bomb(size: int) -> bytes:
    head, tail = PATIENTS.split("</sheetData>")
    return xlsx({"P": head + " " * size + "</sheetData>" + tail})


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (_bomb(40_000_000), "packed more tightly"),
        (xlsx({"P": PATIENTS.replace("<worksheet", '<!DOCTYPE a [<!ENTITY b "c">]><worksheet')}), "DOCTYPE"),
        (
            xlsx(
                {"P": PATIENTS}, changes={"xl/workbook.xml": '<!DOCTYPE a SYSTEM "file:///etc/passwd"><workbook/>'}
            ),
            "DOCTYPE",
        ),
        (xlsx({"P": PATIENTS.replace(">A<", ">&b;<")}), "damaged"),
        (xlsx({"P": PATIENTS.replace("</sheetData>", "<a>" * 500 + "</sheetData>")}), "too deeply"),
        (
            xlsx({"P": PATIENTS.replace("</sheetData>", '<a b="' + "x" * 2_000_000)}),
            "tag that is too long|damaged",
        ),
        (xlsx({"P": PATIENTS[:-20]}), "damaged"),
        (xlsx({"P": PATIENTS.replace("UTF-8", "UkF-8")}), "damaged"),
        (xlsx([["Nom", "Email"], ["A" * 300_000, "a@example.fr"]]), "more than 200,000 characters"),
        (xlsx([["Nom", "Email"], ["A", Raw('<c r="XFD2"><v>1</v></c>')]]), "column 16384; 500 are allowed"),
        (xlsx([["Nom", "Email"], ["A", Raw('<c r="2"><v>1</v></c>')]]), "without a place"),
        (xlsx([["Nom", "Email"], ["A", Raw('<c r="{r}" t="s"><v>9</v></c>')]]), "does not hold"),
        (xlsx([["Nom", "Email"], ["A", Raw('<c r="{r}" t="s"><v>x</v></c>')]]), "does not hold"),
        (xlsx({"P": PATIENTS.replace('<row r="2"', '<row r="9999999"')}), "are possible"),
        (xlsx({"P": PATIENTS}, changes={"xl/worksheets/sheet1.xml": None}), "no sheet with cells"),
        (xlsx({f"S{n}": PATIENTS for n in range(201)}), "more than 200 sheets"),
        (xlsx({"P": NOTHING}), "no header row"),
        (xlsx({"P": xlsx_sheet([])}), "empty"),
        (xlsx({"P": xlsx_sheet([["Nom"], ["A"]])}), "No column with contacts"),
    ],
)
def test_a_trap_or_a_damaged_workbook_is_refused_in_plain_words(content, words):
    with pytest.raises(ListError, match=words):
        _read(content)


def test_a_part_that_lies_about_its_size_is_refused():
    content = bytearray(_bomb(40_000_000))
    # the sizes in the directory at the end are what the archive says of itself
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        size = archive.getinfo("xl/worksheets/sheet1.xml").file_size
    content = content.replace(size.to_bytes(4, "little"), (1000).to_bytes(4, "little"))
    with pytest.raises(ListError, match="damaged"):
        _read(bytes(content))


def test_texts_that_would_fill_the_memory_are_refused():
    content = xlsx([["Nom", "Email"]], shared=["<t>" + "x" * 100 + "</t>"] * 100)
    with pytest.raises(ListError, match="share more than"):
        _read(content, limits=Limits(max_shared_bytes=5000))
    with pytest.raises(ListError, match="unpacks to more"):
        _read(content, limits=Limits(max_unpacked_bytes=5000))


@pytest.mark.parametrize("flag", [1])
def test_an_encrypted_part_is_refused(flag):
    content = bytearray(xlsx({"P": PATIENTS}))
    for start in _places(content, b"PK\x01\x02"):
        content[start + 8] |= flag
    with pytest.raises(ListError, match="password"):
        _read(bytes(content))


def _places(content: bytearray, sign: bytes) -> list[int]:
    return [at for at in range(len(content)) if content.startswith(sign, at)]


_TEXT = st.text(st.characters(codec="latin-1", min_codepoint=32, exclude_categories=["Cc"]), max_size=12)
_NUMBER = st.one_of(st.integers(-(10**14), 10**14), st.floats(-1e9, 1e9).map(lambda value: round(value, 6)))


@given(st.lists(st.tuples(_TEXT, _NUMBER), min_size=1, max_size=8))
def test_texts_and_numbers_are_read_as_another_reader_reads_them(rows):
    content = xlsx([["Email", "Code postal"], *[[f"x{text}", number] for text, number in rows]])
    others = CalamineWorkbook.from_filelike(io.BytesIO(content)).get_sheet_by_index(0).to_python()[1:]
    ours = [(cells["email"][0], float(cells["postal_code"][0])) for _, cells in _cells(content)]
    assert ours == [(visible(str(text)), pytest.approx(number)) for text, number in others]


_RAW_CELL = st.sampled_from(
    [
        '<c r="{r}"/>',
        '<c r="{r}" s="1"/>',
        '<c r="{r}"><v>639980001</v></c>',
        '<c r="{r}" s="1" t="n"><v>27395</v></c>',
        '<c r="{r}" t="n" s="1"><v>27395.5</v></c>',
        '<c t="s" r="{r}"><v>0</v></c>',
        '<c r="{r}" t="s"><v>0</v></c>',
        '<c r="{r}" s="2" t="s"><v> 1 </v></c>',
        '<c r="{r}" t="b"><v>1</v></c>',
        '<c r="{r}" t="e"><v>#N/A</v></c>',
        '<c r="{r}" t="d"><v>1975-01-01T00:00:00</v></c>',
        '<c r="{r}"><f>A1</f></c>',
        '<c r="{r}" t="str"><f>A1</f><v> x </v></c>',
        '<c r="{r}" t="str"><v>y</v></c>',
        '<c r="{r}" t="str"></c>',
        '<c r="{r}"><v></v></c>',
        '<c r="{r}"><v>1e9</v></c>',
        '<c r="{r}"><v>٣</v></c>',
        '<c r="{r}"><v>²</v></c>',
        '<c r="{r}" t="s"><v>²</v></c>',
        '<c r="{r}" t="s"><v>٣</v></c>',
        '<c r="{r}" t="inlineStr"><is><t>é</t></is></c>',
        '<c r="{r}" t="inlineStr"><is><t xml:space="preserve"> b </t></is></c>',
        '<c r="{r}" t="inlineStr"><is><t>a&amp;b</t></is></c>',
        '<c r="{r}" t="inlineStr"><is><r><t>a</t></r><r><t>b</t></r></is></c>',
        '<c r="{r}" t="inlineStr"><is><t>a\r\nb</t></is></c>',
        '<c r="{r}"><is><t>a</t></is></c>',
        '<c r="{r}" vm="1"><v>7</v></c>',
        '<c r="{r}" ><v>7</v></c>',
        "<c><v>7</v></c>",
        "<c r='{r}'><v>7</v></c>",
    ]
)


@given(st.lists(st.lists(_RAW_CELL, max_size=4), min_size=1, max_size=5))
def test_rows_read_without_a_parser_are_as_the_parser_reads_them(rows):
    part = xlsx_sheet([["Nom", "Naissance", "Email", "Tel"], *[[Raw(cell) for cell in row] for row in rows]])
    parsed = part.replace("<sheetData>", "<!-- --><sheetData>")
    read = []
    for one in (part, parsed):
        try:
            read.append(_read(xlsx({"P": one}, shared=["<t>s0</t>", "<t>s1</t>"], styles=["d/m/y"]))[1])
        except ListError as error:
            read.append(error.message)
    assert read[0] == read[1]


_VALID = [xlsx({"P": PATIENTS, "Q": NOTHING}, styles=["dd/mm/yy"], shared=["<t>x</t>"])]


@given(
    st.sampled_from(_VALID),
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=6),
)
def test_no_changed_byte_crashes_the_reader(content, changes):
    changed = bytearray(content)
    for place, value in changes:
        changed[place % len(changed)] = value
    _read_or_refuse(bytes(changed))


@given(st.binary(max_size=200), st.integers(0, 10**6))
def test_no_changed_part_crashes_the_reader(junk, place):
    part = bytearray(PATIENTS.encode())
    at = place % len(part)
    part[at:at] = junk
    _read_or_refuse(xlsx({"P": ""}, changes={"xl/worksheets/sheet1.xml": bytes(part)}))


def _read_or_refuse(content: bytes) -> None:
    with contextlib.suppress(ListError):
        assert all(row.number > 0 for row in _read(content)[1])
