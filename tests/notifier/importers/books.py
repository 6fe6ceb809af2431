"""Writes small spreadsheets and FHIR files for tests, byte by byte as programs do."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape, quoteattr

MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
RELATIONS = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
PACKAGE = "http://schemas.openxmlformats.org/package/2006/relationships"
ODS_TYPE = "application/vnd.oasis.opendocument.spreadsheet"


class Raw(str):
    """A cell written as XML already; `{r}` is its place."""


def letters(index: int) -> str:
    name = ""
    index += 1
    while index:
        index, rest = divmod(index - 1, 26)
        name = chr(65 + rest) + name
    return name


def zipped(parts: Mapping[str, str | bytes], stored: Sequence[str] = ()) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content, zipfile.ZIP_STORED if name in stored else zipfile.ZIP_DEFLATED)
    return out.getvalue()


def xlsx_sheet(
    rows: Sequence[Sequence[Any]],
    *,
    first_row: int = 1,
    hidden: Sequence[int] = (),
    cols: str = "",
    tail: str = "",
) -> str:
    """A worksheet part; texts stand in their cells, numbers as numbers, None is no cell."""
    lines = []
    for number, row in enumerate(rows, start=first_row):
        cells = "".join(_xlsx_cell(f"{letters(index)}{number}", value) for index, value in enumerate(row))
        mark = ' hidden="1"' if number in hidden else ""
        lines.append(f'<row r="{number}"{mark}>{cells}</row>')
    return f'<?xml version="1.0" encoding="UTF-8"?><worksheet xmlns="{MAIN}">{cols}<sheetData>{"".join(lines)}</sheetData>{tail}</worksheet>'


def _xlsx_cell(place: str, value: Any) -> str:
    match value:
        case None:
            return ""
        case Raw():
            return value.replace("{r}", place)
        case bool():
            return f'<c r="{place}" t="b"><v>{int(value)}</v></c>'
        case int() | float():
            return f'<c r="{place}"><v>{value!r}</v></c>'
    return f'<c r="{place}" t="inlineStr"><is><t>{escape(value)}</t></is></c>'


def xlsx(
    sheets: Mapping[str, str] | Sequence[Sequence[Any]],
    *,
    states: Mapping[str, str] | None = None,
    styles: Sequence[str] = (),
    shared: Sequence[str] = (),
    date1904: bool = False,
    changes: Mapping[str, str | bytes | None] | None = None,
) -> bytes:
    """A workbook of sheet parts, or of the rows of one. `styles` are number formats, used by `s="1"` and on."""
    if not isinstance(sheets, Mapping):
        sheets = {"Patients": xlsx_sheet(sheets)}
    listed = "".join(
        f'<sheet name={quoteattr(name)} sheetId="{n}" state="{(states or {}).get(name, "visible")}" r:id="rId{n}"/>'
        for n, name in enumerate(sheets, start=1)
    )
    relations = "".join(
        f'<Relationship Id="rId{n}" Type="{RELATIONS}/worksheet" Target="worksheets/sheet{n}.xml"/>'
        for n in range(1, len(sheets) + 1)
    )
    formats = "".join(
        f'<numFmt numFmtId="{164 + n}" formatCode={quoteattr(code)}/>' for n, code in enumerate(styles)
    )
    xfs = "".join(f'<xf numFmtId="{164 + n}"/>' for n in range(len(styles)))
    parts: dict[str, str | bytes | None] = {
        "[Content_Types].xml": '<?xml version="1.0"?><Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types"/>',
        "_rels/.rels": f'<Relationships xmlns="{PACKAGE}"><Relationship Id="rId1" Type="{RELATIONS}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
        "xl/workbook.xml": f'<workbook xmlns="{MAIN}" xmlns:r="{RELATIONS}"><workbookPr date1904="{int(date1904)}"/><sheets>{listed}</sheets></workbook>',
        "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{PACKAGE}">{relations}</Relationships>',
        "xl/styles.xml": f'<styleSheet xmlns="{MAIN}"><numFmts>{formats}</numFmts><cellStyleXfs><xf numFmtId="14"/></cellStyleXfs><cellXfs><xf numFmtId="0"/>{xfs}</cellXfs></styleSheet>',
    }
    if shared:
        parts["xl/sharedStrings.xml"] = f'<sst xmlns="{MAIN}">{"".join(f"<si>{one}</si>" for one in shared)}</sst>'
    parts |= {f"xl/worksheets/sheet{n}.xml": part for n, part in enumerate(sheets.values(), start=1)}
    parts |= changes or {}
    return zipped({name: part for name, part in parts.items() if part is not None})


def ods(tables: str, *, styles: str = "", changes: Mapping[str, str | bytes] | None = None) -> bytes:
    """An OpenDocument spreadsheet of `<table:table>` elements."""
    spaces = " ".join(
        f'xmlns:{prefix}="urn:oasis:names:tc:opendocument:xmlns:{prefix}:1.0"'
        for prefix in ("office", "table", "text", "style")
    )
    content = (
        f'<?xml version="1.0" encoding="UTF-8"?><office:document-content {spaces}><office:automatic-styles>{styles}'
        f"</office:automatic-styles><office:body><office:spreadsheet>{tables}</office:spreadsheet></office:body></office:document-content>"
    )
    manifest = '<manifest:manifest xmlns:manifest="urn:oasis:names:tc:opendocument:xmlns:manifest:1.0"/>'
    parts = {"mimetype": ODS_TYPE, "META-INF/manifest.xml": manifest, "content.xml": content}
    return zipped(parts | dict(changes or {}), stored=["mimetype"])


def ods_table(rows: Sequence[Sequence[Any]], name: str = "Patients", more: str = "") -> str:
    lines = "".join(f"<table:table-row>{''.join(map(_ods_cell, row))}</table:table-row>" for row in rows)
    return f"<table:table table:name={quoteattr(name)} {more}>{lines}</table:table>"


def _ods_cell(value: Any) -> str:
    match value:
        case None:
            return "<table:table-cell/>"
        case Raw():
            return value
        case bool():
            return f'<table:table-cell office:value-type="boolean" office:boolean-value="{str(value).lower()}"><text:p>x</text:p></table:table-cell>'
        case int() | float():
            return f'<table:table-cell office:value-type="float" office:value="{value!r}"><text:p>{value}</text:p></table:table-cell>'
    paragraphs = "".join(f"<text:p>{escape(line)}</text:p>" for line in value.split("\n"))
    return f'<table:table-cell office:value-type="string">{paragraphs}</table:table-cell>'


def patient(**changes: Any) -> dict[str, Any]:
    """A FHIR Patient with a name and an email address."""
    return {
        "resourceType": "Patient",
        "id": "p1",
        "name": [{"use": "official", "family": "Martin", "given": ["Zoé", "Anne"]}],
        "telecom": [{"system": "email", "value": "zoe@example.fr"}],
    } | changes


def ndjson(*resources: Any) -> bytes:
    return "\n".join(one if isinstance(one, str) else json.dumps(one) for one in resources).encode()


def bundle(*resources: Any, **changes: Any) -> bytes:
    entries = [{"fullUrl": f"urn:uuid:{n}", "resource": one} for n, one in enumerate(resources)]
    return json.dumps({"resourceType": "Bundle", "type": "collection", "entry": entries} | changes).encode()
