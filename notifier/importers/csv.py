"""Reads a patient list in CSV: finds encoding, delimiter and header, then yields its rows one by one.

Memory does not grow with the file. Encoding is settled over the whole file before the first row, because the
first accent may stand in the last line; the delimiter by the structure of the first lines (`csv.Sniffer`
takes an apostrophe or a letter for one: python/cpython#97611).
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO

from notifier.importers.encodings import Text, examine, repaired
from notifier.importers.refusals import Refusal, refused
from notifier.importers.rows import Asked, Doubt, Format, Limits, RawList
from notifier.importers.tables import Head, Record, find_head, notes_on_head, read_head, trimmed

#: a quoted cell may run over so many lines; with more, its quote is taken as never closed
_LINES_IN_CELL = 40
_DELIMITERS = (";", "\t", ",", "|")


def read(stream: BinaryIO, asked: Asked) -> RawList:
    """Opens a text file with one row of a table in every line.

    Raises ListError if it is empty, not text, in a broken encoding, or has no header row with a contact column.
    """
    text = examine(stream)
    limits = asked.limits
    delimiter, head = _find_header(lambda sign: _records(stream, text, sign, None, limits), asked.mapping)
    width = len(head.cells) if head else None
    rows = read_head(head, lambda: _records(stream, text, delimiter, width, limits), asked.mapping)
    return RawList(
        format=Format.CSV,
        sha256=text.sha256,
        headers=rows.layout.headers,
        header_number=rows.head.number,
        _rows=rows.__iter__,
        encoding=text.encoding,
        delimiter=delimiter,
        questions=rows.layout.questions,
        _notes=(*text.notes(), *notes_on_head(rows)),
        _unread=rows.unread_contact_columns,
    )


# --- structure --------------------------------------------------------------------------------------


def _find_header(
    open_records: Callable[[str], Iterator[Record]], mapping: Mapping[str, str] | None
) -> tuple[str, Head | None]:
    """Delimiter and header. Of several delimiters that show one, the one with the most known names, then the most
    cells below it; without any, the row with most known names is taken, and what is missing is said later."""
    found = [
        (head, delimiter)
        for delimiter in _DELIMITERS
        if (head := find_head(open_records(delimiter), mapping)) is not None
    ]
    if not found:
        return ";", None
    head, delimiter = max(found, key=lambda one: one[0].score)
    return delimiter, head


def _records(stream: BinaryIO, text: Text, delimiter: str, width: int | None, limits: Limits) -> Iterator[Record]:
    """(number, cells, doubts) of every record, blank ones too; a record in quotes may span lines.

    Lines end with LF, CRLF or CR only: U+0085 and U+2028 are data. A quote that is never closed is taken as
    a character of its own line, so that it cannot swallow the patients below it.
    """
    lines = _Lines(stream, text, limits.max_line)
    number = 0
    while (line := lines.next()) is not None:
        number += 1
        fields: list[str]
        doubts: Sequence[Doubt] = ()
        if '"' not in line:
            fields = line.split(delimiter)
            if "'" in line:
                fields = list(map(_opened, fields))
        else:
            fields, doubts = _quoted(line, lines, delimiter, width)
            fields = list(map(_opened, fields))
        if len(fields) > limits.max_columns and len(fields := trimmed(fields)) > limits.max_columns:
            raise refused(Refusal.MANY_CELLS, row=number, cells=len(fields), most=limits.max_columns)
        yield number, fields, doubts


_FORMULA_TEXT = re.compile(r'\s*="([^"]*)"\s*')
#: a spreadsheet takes text that begins so for a formula or a number: an apostrophe before it keeps it as it is
GUARDED_SIGNS = "=+-@\t\r\n＝＋－＠'0123456789"


def _opened(cell: str) -> str:
    """Without what keeps a spreadsheet from computing a cell: `="0639…"`, `'+3363…`, `'0639…`."""
    if cell.startswith("'"):
        return cell[1:] if len(cell) > 1 and cell[1] in GUARDED_SIGNS else cell
    if "=" not in cell:
        return cell
    text = _FORMULA_TEXT.fullmatch(cell)
    return cell if text is None else text[1]


def _quoted(line: str, lines: _Lines, delimiter: str, width: int | None) -> tuple[list[str], list[Doubt]]:
    fields = _parse(line, delimiter)
    if fields is not None:
        return fields, []
    if _opens_quote(line, delimiter):
        joined = line
        taken: list[str] = []
        while len(taken) < _LINES_IN_CELL and len(joined) < lines.longest and (more := lines.next()) is not None:
            taken.append(more)
            joined += "\n" + more
            if '"' in more and (fields := _parse(joined, delimiter)) is not None:
                if width is None or _fits(fields, [line, *taken], delimiter, width):
                    return fields, []
                # a record that is whole stays what it is, whatever follows
                break
        lines.give_back(taken)
    return [_bare(value) for value in line.split(delimiter)], [Doubt.UNBALANCED_QUOTE]


def _fits(fields: list[str], lines: list[str], delimiter: str, width: int) -> bool:
    """Whether lines joined by an open quote are one row: no wider than the header, no whole row in a cell, and not
    each line a whole row by itself, whose quotes only happen to pair."""
    if any(value.strip() for value in fields[width:]):
        return False
    # a short row, whose last cells were left out, must look even less like several
    limit = width - 1 if len(fields) >= width else 1
    swallowed = [line.count(delimiter) for value in fields if "\n" in value for line in value.split("\n")[1:]]
    if any(swallowed) and all(line.count(delimiter) == width - 1 for line in lines):
        return False
    return width == 1 or all(count < limit for count in swallowed)


def _parse(record: str, delimiter: str) -> list[str] | None:
    """The cells of one complete record, or None if its quotes do not pair."""
    try:
        rows = list(csv.reader([record], delimiter=delimiter, strict=True))
    except csv.Error:
        return None
    return rows[0] if len(rows) == 1 else None


def _opens_quote(line: str, delimiter: str) -> bool:
    """Whether a cell opens with a quote that this line does not close."""
    start = line.lstrip(" \ufeff").startswith('"') or f'{delimiter}"' in line
    return start and line.count('"') % 2 == 1


def _bare(value: str) -> str:
    """Without the quotes around it, or a lone one at an edge."""
    value = value.strip()
    if value.startswith('"'):
        value = value[1:]
    if value.endswith('"') and value.count('"') % 2:
        value = value[:-1]
    return value


class _Lines:
    """The lines of a stream, decoded, without their ends; some can be given back."""

    def __init__(self, stream: BinaryIO, text: Text, longest: int) -> None:
        self.longest = longest
        raw = io.BufferedReader(_Unclosed(stream), 65536)
        self._text = io.TextIOWrapper(raw, encoding=text.encoding, newline="")
        self._repairs = text.repairs
        self._back: list[str] = []
        self._number = 0

    def next(self) -> str | None:
        if self._back:
            return self._back.pop()
        line = self._text.readline(self.longest + 1)
        if not line:
            return None
        self._number += 1
        if len(line) > self.longest:
            raise refused(Refusal.LONG_LINE, line=self._number, most=self.longest)
        line = line.rstrip("\r\n")
        if self._repairs:
            line = self._repaired(line)
        return line.lstrip("\ufeff") if self._number == 1 else line

    def _repaired(self, line: str) -> str:
        for _ in range(self._repairs):
            line = repaired(line)
        return line

    def give_back(self, lines: list[str]) -> None:
        self._back.extend(reversed(lines))


class _Unclosed(io.RawIOBase):
    """Reads from a stream that stays open when the text layer over it is thrown away.

    Starts at the beginning; several may read from one stream, each from its own place.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._at = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        self._stream.seek(self._at)
        data = self._stream.read(len(buffer))
        self._at += len(data)
        buffer[: len(data)] = data
        return len(data)
