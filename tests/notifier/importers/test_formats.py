"""A list is known by what it holds, whatever its name; what is none is refused with what to do."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import pytest

from notifier.errors import ListError
from notifier.importers import Code, Column, Format, Limits, Note, RawList, RawRow, open_list
from notifier.importers.rows import WORDS, Doubt
from tests.notifier.importers.books import bundle, ndjson, ods, ods_table, patient, xlsx, zipped

ROWS = [["Nom", "Email"], ["Zoé", "zoe@example.fr"]]
FILES = {
    Format.CSV: "Nom;Email\nZoé;zoe@example.fr\n".encode(),
    Format.XLSX: xlsx(ROWS),
    Format.ODS: ods(ods_table(ROWS)),
    Format.FHIR_NDJSON: ndjson(patient(name=[{"family": "Zoé"}])),
    Format.FHIR_BUNDLE: bundle(patient(name=[{"family": "Zoé"}])),
}
NAMES = {
    Format.CSV: "a.CSV",
    Format.XLSX: "a.xlsx",
    Format.ODS: "a.ods",
    Format.FHIR_NDJSON: "Patient.ndjson",
    Format.FHIR_BUNDLE: "a.json",
}


def _read(content: bytes, **options) -> tuple[RawList, list[RawRow]]:
    with open_list(io.BytesIO(content), **options) as listing:
        return listing, list(listing)


@pytest.mark.parametrize("format_", Format)
def test_every_format_yields_the_same_row(format_):
    listing, rows = _read(FILES[format_], filename=NAMES[format_])
    cells = rows[0].cells
    assert listing.format is format_
    assert (cells[Column.LAST_NAME], cells[Column.EMAIL]) == (["Zoé"], ["zoe@example.fr"])
    assert {Column.LAST_NAME, Column.EMAIL} <= listing.meanings
    assert listing.names_people
    assert len(listing.sha256) == 32
    assert listing.notes == listing.unread_contact_columns == []
    assert [row.cells for row in listing] == [cells]


@pytest.mark.parametrize("format_", Format)
@pytest.mark.parametrize("name", ["list.xls", "list.csv", "list.xlsx", "list.json", "list", "list.dat", None])
def test_the_content_decides_and_a_wrong_name_is_noted(format_, name):
    listing, rows = _read(FILES[format_], filename=name)
    said = {"csv": {"csv"}, "xlsx": {"xlsx"}, "json": {"fhir_ndjson", "fhir_bundle"}, "xls": set()}
    allowed = said.get((name or "").rpartition(".")[2])
    expected = [] if allowed is None or format_ in allowed else [Note(Code.WRONG_EXTENSION, names=(format_,))]
    assert (len(rows), listing.notes) == (1, expected)


def test_a_path_gives_the_name_itself(tmp_path: Path):
    file = tmp_path / "list.csv"
    file.write_bytes(FILES[Format.XLSX])
    with open_list(file) as listing:
        assert [note.code for note in listing.notes] == [Code.WRONG_EXTENSION]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"<html><table><tr><td>Nom</td></tr></table>", "web page"),
        (b'\xef\xbb\xbf \n<?xml version="1.0"?><?mso-application progid="Excel.Sheet"?>', "XML document"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 600, r"\.xls\).*Save as, XLSX"),
        (
            b"\xd0\xcf\x11\xe0" + b"\0" * 200_000 + "EncryptedPackage".encode("utf-16-le") + b"\0" * 600,
            "take the password off",
        ),
        (b"SQLite format 3\0", "database"),
        (b"\x1f\x8b\x08", "gzip"),
        (zipped({"list.csv": "nom;email\n"}), "Unpack it"),
        (zipped({"xl/workbook.bin": "x"}), r"\.xlsb\).*Save as, XLSX"),
        (zipped({"[Content_Types].xml": "x", "word/document.xml": "x"}), "not a spreadsheet"),
        (zipped({"mimetype": "application/vnd.oasis.opendocument.text", "content.xml": "x"}), "not a spreadsheet"),
        (zipped({}), "ZIP archive"),
        (b"PK\x03\x04" + b"\0" * 100, "damaged"),
        (b"{}", "no FHIR"),
        (b"[1, 2]", "no FHIR"),
    ],
)
def test_what_is_no_list_is_refused_with_what_to_do(content, words):
    with pytest.raises(ListError, match=words):
        _read(content)


@pytest.mark.parametrize("format_", Format)
def test_a_file_over_the_limit_is_refused_before_it_is_read(format_):
    class Sized(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise AssertionError("read before its size was looked at")

    with (
        pytest.raises(ListError, match="more than the 20 allowed"),
        open_list(Sized(FILES[format_]), limits=Limits(max_bytes=20)),
    ):
        pass


@pytest.mark.parametrize("format_", Format)
def test_a_file_that_ends_early_is_refused_or_loses_nobody_in_silence(format_):
    people = [["Nom", "Email"], *[[f"N{n}", f"n{n}@example.fr"] for n in range(50)]]
    whole = {
        Format.CSV: "\n".join(";".join(row) for row in people).encode(),
        Format.XLSX: xlsx(people),
        Format.ODS: ods(ods_table(people)),
        Format.FHIR_NDJSON: ndjson(*[patient(id=str(n)) for n in range(50)]),
        Format.FHIR_BUNDLE: bundle(*[patient(id=str(n)) for n in range(50)]),
    }[format_]
    content = whole[: len(whole) * 2 // 3]
    if format_ in (Format.CSV, Format.FHIR_NDJSON):
        # lines carry no end mark: the last, cut one is still a row
        assert len(_read(content)[1]) >= 30
    else:
        with pytest.raises(ListError, match=r"damaged|cut off"):
            _read(content)


def test_every_doubt_and_note_has_words_in_both_languages():
    assert set(WORDS) == set(Doubt)
    for code in Code:
        french, english = Note(code, 3, ("x",)).words()
        assert french
        assert english
        assert french != english


def _case_content(case: dict) -> bytes | None:
    given = case["input"]
    match case["id"]:
        case "csv-023":
            rows = [["email"], *[[f"p{n}@example.fr" if n < 499 else "p499.example.fr"] for n in range(500)]]
            return "\n".join(row[0] for row in rows).encode()
        case "csv-025":
            # two rows; formats down to the last row are in test_xlsx
            return xlsx([*ROWS, ["Luc", "luc@example.fr"]])
        case "csv-026":
            return xlsx([["nom", "email", "ville"], *[["A", f"p{n}@example.fr", "Paris"] for n in range(499)]])
        case "csv-027":
            return xlsx([["nom", "telephone"], ["A", 612345678]])
        case "csv-015" | "csv-033" | "csv-034" | "csv-035":
            return None
    return base64.b64decode(given["bytes_b64"]) if isinstance(given, dict) else given.encode()


def test_published_cases(shared: Path):
    lines = (shared / "cases/cases.jsonl").read_text().strip().split("\n")
    cases = [case for case in map(json.loads, lines) if case["area"] == "csv"]
    assert cases
    for case in cases:
        expected, name = case["expected"], case["id"]
        if (content := _case_content(case)) is None:
            # what is described in words stands as vectors in test_columns and test_fhir
            continue
        if "error" in expected or name == "csv-005":
            # csv-005 has no column of contacts at all
            with pytest.raises(ListError):
                _read(content)
            continue
        listing, rows = _read(content)
        assert len(rows) == expected.get("rows", len(rows)), name
        assert listing.delimiter == expected.get("delimiter", listing.delimiter), name
        if isinstance(columns := expected.get("columns"), list):
            assert list(listing.columns) == columns, name
