"""Reads a patient list in CSV: finds encoding, delimiter and header, then yields its rows one by one.

Memory does not grow with the file. Encoding is settled over the whole file before the first row, because the
first accent may stand in the last line; the delimiter by the structure of the first lines (`csv.Sniffer`
takes an apostrophe or a letter for one: python/cpython#97611).
"""

from __future__ import annotations

import codecs
import csv
import hashlib
import io
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from notifier.addresses import visible
from notifier.errors import ListError
from notifier.importers import (
    CONTACTS,
    NAMES,
    Column,
    Doubt,
    RawRow,
    guardian,
    layout,
    looks_like_contact,
    recognise,
)

MAX_BYTES = 512 * 1024 * 1024
MAX_LINE = 200_000
MAX_COLUMNS = 500
#: lines before the header that may be a title, a date, blanks
_TITLE_LINES = 30
#: a quoted cell may run over so many lines; with more, its quote is taken as never closed
_LINES_IN_CELL = 40
_CHUNK = 1024 * 1024
#: so many cells of a column that is not read are looked at for contacts
_CELLS_LOOKED_AT = 50
_DELIMITERS = (";", "\t", ",", "|")

_MAGIC = {
    b"PK\x03\x04": "a spreadsheet (XLSX, ODS) or a ZIP archive",
    b"%PDF": "a PDF document",
    b"\xd0\xcf\x11\xe0": "an old Excel or Word document",
    b"\x1f\x8b": "a compressed file (gzip)",
    b"7z\xbc\xaf": "a compressed file (7z)",
    b"Rar!": "a compressed file (RAR)",
    b"\x89PNG": "a picture",
    b"\xff\xd8\xff": "a picture",
    b"{\\rtf": "a text document (RTF)",
}
_AS_CSV = "Save it as CSV (in Excel: Save as, CSV UTF-8) and hand that in."


@dataclass(frozen=True, slots=True)
class ListReader:
    """An open list: what was recognised, and its rows. Iterating again reads from the start."""

    #: header as written → meaning; None where it is not used
    columns: dict[str, Column | None]
    encoding: str
    delimiter: str
    #: of the whole file, byte for byte
    sha256: bytes
    _stream: BinaryIO
    _header: list[str]
    _layout: dict[int, Column]
    header_number: int
    #: cells that hold something, and those of them like a contact, by column that is not read
    _unread: dict[int, list[int]]
    #: note for the contacts of a column that belongs to a parent
    _notes: dict[int, str]

    @property
    def meanings(self) -> frozenset[Column]:
        """What the list has columns for."""
        return frozenset(self._layout.values())

    @property
    def unread_contact_columns(self) -> list[str]:
        """Headers of columns that are not read although at least half of their first cells look like contacts.
        Complete once all rows were read."""
        return [
            self._header[index].strip()[:60] or f"#{index + 1}"
            for index, (cells, contacts) in self._unread.items()
            if contacts and contacts * 2 >= cells
        ]

    @property
    def names_people(self) -> bool:
        """Whether the list has a column for a name or an id at all."""
        return not NAMES.isdisjoint(self._layout.values())

    def __iter__(self) -> Iterator[RawRow]:
        for index in range(len(self._header)):
            if index not in self._layout:
                self._unread[index] = [0, 0]
        looking = list(self._unread)
        for number, fields, doubts in _records(self._stream, self.encoding, self.delimiter, len(self._header)):
            if number > self.header_number:
                if looking:
                    looking = self._look_at_unread(looking, fields)
                row = self._row(number, fields, doubts)
                if row is not None:
                    yield row

    def _look_at_unread(self, looking: list[int], fields: list[str]) -> list[int]:
        """Counts; returns the columns that still have to be looked at."""
        for index in looking:
            if index < len(fields) and (value := visible(fields[index])) and fields != self._header:
                self._unread[index][0] += 1
                self._unread[index][1] += looks_like_contact(value)
        return [index for index in looking if self._unread[index][0] < _CELLS_LOOKED_AT]

    def _row(self, number: int, fields: list[str], doubts: list[Doubt]) -> RawRow | None:
        if fields[0] == self._header[0] and fields[: len(self._header)] == self._header:
            return RawRow(number, {}, [Doubt.HEADER_AGAIN])
        cells: dict[Column, list[str]] = {}
        width = len(fields)
        for index, column in self._layout.items():
            if index >= width or not (value := fields[index]):
                continue
            # `visible`, without a call where the cell is plain
            value = value.strip() if value.isascii() else visible(value)
            if column is Column.COMMENT:
                # the text itself goes no further than this line: GDPR article 5(1)(c)
                value = value and ("none" if value.casefold() in _NO_COMMENT else "present")
            if value:
                if index in self._notes:
                    value += f" ({self._notes[index]})"
                if column in cells:
                    cells[column].append(value)
                else:
                    cells[column] = [value]
        if width > len(self._header) and any(visible(extra) for extra in fields[len(self._header) :]):
            doubts = [*doubts, Doubt.MORE_CELLS]
        if not cells and not any(visible(value) for value in fields):
            return None
        return RawRow(number, cells, doubts)


#: a comment column that holds one of these says that there is no comment
_NO_COMMENT = frozenset({"non", "no", "n", "0", "false", "faux", "-", "--", "/", "néant", "neant", "aucun", "ras"})


@contextmanager
def open_list(source: Path | BinaryIO, max_bytes: int = MAX_BYTES) -> Iterator[ListReader]:
    """Opens a list for reading; `source` is a path or a seekable binary stream.

    Raises ListError if the file is empty, too big, not text, in a broken encoding, or has no header row with
    a contact column. The size is looked at before anything is read.
    """
    with ExitStack() as stack:
        try:
            stream = stack.enter_context(source.open("rb")) if isinstance(source, Path) else source
            reader = _open(stream, max_bytes)
        except OSError as error:
            raise ListError(f"The list cannot be read: {error.strerror or error}.") from error
        yield reader


def _open(stream: BinaryIO, max_bytes: int) -> ListReader:
    size = stream.seek(0, io.SEEK_END)
    if size > max_bytes:
        raise ListError(
            f"The list has {size:,} bytes, more than the {max_bytes:,} allowed. Split it, or raise max_list_bytes."
        )
    encoding, digest = _examine(stream)
    delimiter, header_number, header = _find_header(stream, encoding)
    columns = {name.strip(): None if (found := recognise(name)) is None else found.column for name in header}
    return ListReader(
        columns={name: column for name, column in columns.items() if name},
        encoding=encoding,
        delimiter=delimiter,
        sha256=digest,
        _stream=stream,
        _header=header,
        _layout=(meanings := layout(header)),
        header_number=header_number,
        _unread={},
        _notes={
            index: note
            for index, column in meanings.items()
            if column in CONTACTS and (note := guardian(header[index]))
        },
    )


# --- encoding ---------------------------------------------------------------------------------------

_BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
# ISO-8859-15 has € Š š Ž ž Œ œ Ÿ where ISO-8859-1 and cp1252 have ¤ ¦ ¨ ´ ¸ ¼ ½ ¾, which names never have;
# cp1252 has its own € œ ’ at 80–9F, where the ISO sets have control characters.
_HIGH = bytes(range(0x80, 0x100))
_ISO_15 = b"\xa4\xa6\xa8\xb4\xb8\xbc\xbd\xbe"
_CP1252 = bytes(range(0x80, 0xA0))
_CP1252_UNDEFINED = b"\x81\x8d\x8f\x90\x9d"


@dataclass(slots=True)
class _Evidence:
    """What the bytes above 7F say about the encoding, if the file is not UTF-8."""

    high: int = 0
    in_utf8_pairs: int = 0
    only_iso_15: int = 0
    only_cp1252: int = 0
    in_none: int = 0

    def add(self, chunk: bytes) -> None:
        high = _count(chunk, _HIGH)
        self.high += high
        self.in_utf8_pairs += len(chunk.decode("utf-8", "ignore").encode()) - (len(chunk) - high)
        self.only_iso_15 += _count(chunk, _ISO_15)
        self.only_cp1252 += _count(chunk, _CP1252)
        self.in_none += _count(chunk, _CP1252_UNDEFINED)

    def encoding(self) -> str:
        """Raises ListError for bytes that are no text in any encoding we know."""
        if self.in_utf8_pairs * 2 > self.high:
            # mostly UTF-8: read as cp1252 every accent would become two wrong letters, in names too
            raise ListError("The list's encoding is damaged: it is partly UTF-8. Export it again, as UTF-8.")
        if self.in_none:
            raise ListError(
                "The list's encoding is not known: neither UTF-8, UTF-16, Windows-1252 nor ISO-8859-15. "
                "Export it again, as UTF-8."
            )
        return "cp1252" if self.only_cp1252 or not self.only_iso_15 else "iso-8859-15"


def _count(chunk: bytes, of: bytes) -> int:
    return len(chunk) - len(chunk.translate(None, of))


def _examine(stream: BinaryIO) -> tuple[str, bytes]:
    """Encoding and SHA-256 in one pass over the whole file."""
    stream.seek(0)
    start = stream.read(4096)
    for magic, kind in _MAGIC.items():
        if start.startswith(magic):
            raise ListError(f"This is {kind}, not a CSV file. {_AS_CSV}")
    named = next((name for bom, name in _BOMS if start.startswith(bom)), None) or _utf_16_without_bom(start)
    decoder = codecs.getincrementaldecoder(named or "utf-8")()
    digest, evidence = hashlib.sha256(), _Evidence()
    is_valid, is_last, position = True, False, 0
    stream.seek(0)
    while not is_last:
        chunk = stream.read(_CHUNK)
        is_last = not chunk
        digest.update(chunk)
        text = ""
        if is_valid:
            try:
                text = decoder.decode(chunk, final=is_last)
            except UnicodeDecodeError:
                is_valid = False
        if "\0" in text or (not named and b"\0" in chunk):
            # UTF-16 has two bytes for most characters
            inside = text.index("\0") * 2 if named else chunk.index(b"\0")
            raise ListError(
                f"This is not a text file: there are zero bytes near byte {position + inside + 1:,}. {_AS_CSV}"
            )
        if not named and not chunk.isascii():
            evidence.add(chunk)
        position += len(chunk)
    if is_valid:
        return named or "utf-8", digest.digest()
    if named:
        raise ListError(f"The list begins as {named.upper()} but is damaged further down. Export it again.")
    return evidence.encoding(), digest.digest()


def _utf_16_without_bom(start: bytes) -> str | None:
    even, odd = start[0::2].count(0), start[1::2].count(0)
    half = len(start) // 2
    if half >= 4 and odd > half * 0.7 and even < half * 0.1:
        return "utf-16-le"
    return "utf-16-be" if half >= 4 and even > half * 0.7 and odd < half * 0.1 else None


# --- structure --------------------------------------------------------------------------------------


def _find_header(stream: BinaryIO, encoding: str) -> tuple[str, int, list[str]]:
    """Delimiter, record number and cells of the header: the first row that names a contact column.

    Of several delimiters that show one, the one with the most known names, then the most cells below it.
    Without any, the row with most known names is taken, and `layout` says what is missing.
    """
    found = [head for delimiter in _DELIMITERS if (head := _head(stream, encoding, delimiter))]
    if not found:
        if not any(visible(value) for _, fields, _ in _records(stream, encoding, ";", None) for value in fields):
            raise ListError("The list is empty.")
        # its first row may hold a patient's values: they may not stand in an error
        raise ListError(
            "The list has no header row that is understood. A row near the top must name the columns, "
            "for instance 'nom', 'prenom', 'date de naissance', 'email', 'portable'."
        )
    best = max(found, key=lambda head: head.score)
    return best.delimiter, best.number, best.cells


@dataclass(frozen=True, slots=True)
class _Head:
    delimiter: str
    number: int
    cells: list[str]
    #: names a contact column, known names, cells, cells in the rows below
    score: tuple[bool, int, int, int]


def _head(stream: BinaryIO, encoding: str, delimiter: str) -> _Head | None:
    best: _Head | None = None
    cells_below = 0
    for number, fields, _ in _records(stream, encoding, delimiter, None):
        known = [meaning.column for meaning in map(recognise, fields) if meaning]
        has_contact = any(contact in known for contact in CONTACTS)
        if known and (best is None or (has_contact and not best.score[0])):
            cells = _trimmed(fields)
            best = _Head(delimiter, number, cells, (has_contact, len(known), len(cells), 0))
            cells_below = 0
        else:
            cells_below += len(fields)
        if number >= _TITLE_LINES:
            break
    return best and replace(best, score=(*best.score[:3], cells_below))


def _trimmed(header: list[str]) -> list[str]:
    """Without the empty cells that trailing delimiters make."""
    while header and not visible(header[-1]):
        header = header[:-1]
    return header


def _records(
    stream: BinaryIO, encoding: str, delimiter: str, width: int | None
) -> Iterator[tuple[int, list[str], list[Doubt]]]:
    """(number, cells, doubts) of every record, blank ones too; a record in quotes may span lines.

    Lines end with LF, CRLF or CR only: U+0085 and U+2028 are data. A quote that is never closed is taken as
    a character of its own line, so that it cannot swallow the patients below it.
    """
    lines = _Lines(stream, encoding)
    number = 0
    while (line := lines.next()) is not None:
        number += 1
        if '"' not in line:
            fields = line.split(delimiter)
            doubts: list[Doubt] = []
        else:
            fields, doubts = _quoted(line, lines, delimiter, width)
        if len(fields) > MAX_COLUMNS:
            raise ListError(
                f"Row {number} has {len(fields)} cells; {MAX_COLUMNS} are allowed. Is this a CSV file?"
            )
        yield number, fields, doubts


def _quoted(line: str, lines: _Lines, delimiter: str, width: int | None) -> tuple[list[str], list[Doubt]]:
    fields = _parse(line, delimiter)
    if fields is not None:
        return fields, []
    if _opens_quote(line, delimiter):
        joined = line
        taken: list[str] = []
        while len(taken) < _LINES_IN_CELL and len(joined) < MAX_LINE and (more := lines.next()) is not None:
            taken.append(more)
            joined += "\n" + more
            fields = _parse(joined, delimiter) if '"' in more else None
            if fields is not None and (width is None or _fits(fields, delimiter, width)):
                return fields, []
        lines.give_back(taken)
    return [_bare(value) for value in line.split(delimiter)], [Doubt.UNBALANCED_QUOTE]


def _fits(fields: list[str], delimiter: str, width: int) -> bool:
    """Whether lines joined by an open quote are one row: no wider than the header, no whole row in a cell."""
    if any(value.strip() for value in fields[width:]):
        return False
    # a short row, whose last cells were left out, must look even less like several
    limit = width - 1 if len(fields) >= width else 1
    swallowed = (line for value in fields if "\n" in value for line in value.split("\n")[1:])
    return width == 1 or all(line.count(delimiter) < limit for line in swallowed)


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

    def __init__(self, stream: BinaryIO, encoding: str) -> None:
        stream.seek(0)
        self._text = io.TextIOWrapper(io.BufferedReader(_Unclosed(stream), 65536), encoding=encoding, newline="")
        self._back: list[str] = []
        self._number = 0

    def next(self) -> str | None:
        if self._back:
            return self._back.pop()
        line = self._text.readline(MAX_LINE + 1)
        if not line:
            return None
        self._number += 1
        if len(line) > MAX_LINE:
            raise ListError(f"Line {self._number} is longer than {MAX_LINE:,} characters. Is this a CSV file?")
        line = line.rstrip("\r\n")
        return line.lstrip("\ufeff") if self._number == 1 else line

    def give_back(self, lines: list[str]) -> None:
        self._back.extend(reversed(lines))


class _Unclosed(io.RawIOBase):
    """Reads from a stream that stays open when the text layer over it is thrown away."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)
