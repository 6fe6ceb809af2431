"""Reads a patient list in ODS (OpenDocument 1.2 part 1, ISO/IEC 26300), row by row.

All sheets stand in one part, so the file is gone through once to see what there is, and once for the rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from notifier.importers.archive import Archive, Ends, Starts, parse
from notifier.importers.refusals import Refusal, refused
from notifier.importers.rows import Asked, Format, Limits, RawList
from notifier.importers.sheets import (
    ERROR,
    NO_RESULT,
    Cell,
    Extent,
    OneSheet,
    SheetRow,
    read_sheets,
    refuse_width,
)
from notifier.importers.tables import TITLE_LINES

_CONTENT = "content.xml"
_MOST_SHEETS = 200
_LAST_ROW = 1_048_576
_LONGEST_TEXT = 200_000
_NUMBERS = frozenset({"float", "percentage", "currency"})


def read(stream: BinaryIO, asked: Asked) -> RawList:
    """Opens an OpenDocument spreadsheet. Raises ListError if it is damaged, or no sheet has a header."""
    archive = Archive(stream, asked.limits)
    seen = _Tables(asked.limits, Extent(), keeps=TITLE_LINES + 1)
    for _ in parse(archive.chunks(_CONTENT), seen.starts(), seen.ends(), seen.data):
        seen.done.clear()
    if not seen.found:
        raise refused(Refusal.NO_SHEET)
    sheets = [
        OneSheet(table.name, table.is_hidden, _Reading(archive, asked.limits, number).rows, first=table.first)
        for number, table in enumerate(seen.found)
    ]
    return read_sheets(stream, sheets, asked, Format.ODS)


@dataclass(slots=True)
class _Table:
    name: str
    is_hidden: bool
    #: its first rows
    first: list[SheetRow]


@dataclass(slots=True)
class _Reading:
    """The rows of one sheet."""

    archive: Archive
    limits: Limits
    number: int

    def rows(self, extent: Extent) -> Iterator[SheetRow]:
        """Raises ListError where the file is damaged."""
        tables = _Tables(self.limits, extent, only=self.number)
        for _ in parse(self.archive.chunks(_CONTENT), tables.starts(), tables.ends(), tables.data):
            for row, again in tables.done:
                yield row
                for more in range(1, again):
                    yield SheetRow(row.number + more, row.cells, row.is_hidden)
            tables.done.clear()
            if tables.is_past:
                return


class _Tables:
    """Called back for the XML of the content; finished rows of the sheet wanted gather in `done`.

    Without one wanted, the first `keeps` rows of every sheet gather in `found`. Names of elements and attributes
    have the prefixes that all programs write.
    """

    def __init__(self, limits: Limits, extent: Extent, only: int | None = None, keeps: int = 0) -> None:
        #: rows, and how often each stands there
        self.done: list[tuple[SheetRow, int]] = []
        self.found: list[_Table] = []
        #: the sheet wanted has ended
        self.is_past = False
        self._most, self._extent, self._only, self._keeps = limits.max_columns, extent, only, keeps
        self._hidden_styles: set[str] = set()
        self._style = ""
        self._depth = 0
        self._row = SheetRow(0, [])
        self._rows_again = 1
        self._reads_row = False
        self._attributes: dict[str, str] = {}
        self._column = 0
        self._columns_seen = 0
        self._paragraphs: list[str] = []
        self._length = 0
        self._texts, self._in_cell, self._skipped = 0, False, 0

    def starts(self) -> Starts:
        skip = self._skip
        return {
            "table:table-cell": self._start_cell,
            "table:covered-table-cell": self._start_cell,
            "text:p": self._start_text,
            "text:h": self._start_text,
            "text:s": lambda attributes: self._blank(" " * _whole(attributes, "text:c", 1, 1000)),
            "text:tab": lambda _: self._blank("\t"),
            "text:line-break": lambda _: self._blank("\n"),
            "table:table-row": self._start_row,
            # a comment or a drawing in a cell is not its text
            "office:annotation": skip,
            "table:shapes": skip,
            "draw:frame": skip,
            "table:table": self._start_table,
            "table:table-column": self._start_column,
            "style:style": self._start_style,
            "style:table-properties": self._start_properties,
        }

    def ends(self) -> Ends:
        keep = self._keep
        return {
            "table:table-cell": self._end_cell,
            "table:covered-table-cell": self._end_cell,
            "text:p": self._end_text,
            "text:h": self._end_text,
            "table:table-row": self._end_row,
            "office:annotation": keep,
            "table:shapes": keep,
            "draw:frame": keep,
            "table:table": self._end_table,
        }

    def data(self, text: str) -> None:
        if self._texts > 0 and not self._skipped and self._paragraphs:
            self._length += len(text)
            if self._length > _LONGEST_TEXT:
                raise refused(Refusal.LONG_CELL, row=self._row.number, most=_LONGEST_TEXT)
            self._paragraphs[-1] += text

    def _start_text(self, _: dict[str, str]) -> None:
        if self._in_cell and not self._skipped:
            self._paragraphs.append("")
            self._texts += 1

    def _end_text(self) -> None:
        if self._in_cell and not self._skipped:
            self._texts -= 1

    def _blank(self, text: str) -> None:
        self.data(text)

    def _skip(self, _: dict[str, str]) -> None:
        self._skipped += 1

    def _keep(self) -> None:
        self._skipped -= 1

    def _start_style(self, attributes: dict[str, str]) -> None:
        self._style = attributes.get("style:name", "")

    def _start_properties(self, attributes: dict[str, str]) -> None:
        if attributes.get("table:display") == "false":
            self._hidden_styles.add(self._style)

    def _end_table(self) -> None:
        self._depth -= 1
        self.is_past = self._only is not None and len(self.found) > self._only

    @property
    def _is_wanted(self) -> bool:
        """Whether the sheet that is open is to be read, or read on."""
        if self._depth != 1 or not self.found:
            return False
        if self._only is not None:
            return len(self.found) - 1 == self._only
        return len(self.found[-1].first) < self._keeps

    def _start_table(self, attributes: dict[str, str]) -> None:
        self._depth += 1
        if self._depth > 1:
            # a table inside a cell
            return
        is_hidden = attributes.get("table:style-name", "") in self._hidden_styles
        self.found.append(_Table(attributes.get("table:name", ""), is_hidden, []))
        if len(self.found) > _MOST_SHEETS:
            raise refused(Refusal.MANY_SHEETS, most=_MOST_SHEETS)
        self._row, self._rows_again, self._columns_seen = SheetRow(0, []), 1, 0

    def _start_column(self, attributes: dict[str, str]) -> None:
        again = _whole(attributes, "table:number-columns-repeated", 1, 100_000)
        if self._is_wanted and attributes.get("table:visibility", "") in ("collapse", "filter"):
            last = min(self._columns_seen + again, self._most)
            self._extent.hidden_columns |= set(range(self._columns_seen, last))
        self._columns_seen += again

    def _start_row(self, attributes: dict[str, str]) -> None:
        if self._depth == 1:
            number = self._row.number + self._rows_again
            self._rows_again = _whole(attributes, "table:number-rows-repeated", 1, _LAST_ROW)
            self._row = SheetRow(number, [], attributes.get("table:visibility", "") in ("collapse", "filter"))
            self._column = 0
            self._reads_row = self._is_wanted

    def _end_row(self) -> None:
        row = self._row
        if self._depth != 1 or not row.cells:
            return
        if row.number + self._rows_again - 1 > _LAST_ROW:
            raise refused(Refusal.MANY_ROWS, row=row.number + self._rows_again - 1, most=_LAST_ROW)
        if not self._keeps:
            self.done.append((row, self._rows_again))
            return
        first = self.found[-1].first
        for more in range(min(self._rows_again, self._keeps - len(first))):
            first.append(SheetRow(row.number + more, row.cells, row.is_hidden))

    def _start_cell(self, attributes: dict[str, str]) -> None:
        if self._reads_row and self._depth == 1:
            self._attributes, self._in_cell = attributes, True
            self._paragraphs, self._length, self._texts = [], 0, 0

    def _end_cell(self) -> None:
        if self._depth != 1 or not self._in_cell:
            return
        self._in_cell = False
        again = _whole(self._attributes, "table:number-columns-repeated", 1, 100_000)
        value = self._cell()
        if value != "":
            refuse_width(self._row.number, self._column + again - 1, self._most)
            cells = self._row.cells
            cells.extend([""] * (self._column - len(cells)))
            cells.extend([value] * again)
            if self._row.number > self._extent.header and _is_merged(self._attributes):
                self._extent.merged += 1
        self._column += again

    def _cell(self) -> Cell:
        attributes = self._attributes
        shown = "\n".join(self._paragraphs)
        kind = attributes.get("office:value-type", "")
        if kind == "date":
            day = attributes.get("office:date-value", "")
            return day.removesuffix("T00:00:00") or shown
        if kind == "boolean":
            return attributes.get("office:boolean-value", "") or shown
        if kind in _NUMBERS:
            try:
                return float(attributes.get("office:value", ""))
            except ValueError:
                return ERROR
        if attributes.get("table:formula", ""):
            if shown.startswith(("#", "Err:")):
                return ERROR
            if not kind and not shown:
                return NO_RESULT
        return shown or attributes.get("office:string-value", "")


def _is_merged(attributes: dict[str, str]) -> bool:
    spans = ("table:number-columns-spanned", "table:number-rows-spanned")
    return any(attributes.get(span, "1") != "1" for span in spans)


def _whole(attributes: dict[str, str], name: str, default: int, most: int) -> int:
    written = attributes.get(name)
    if written is None:
        return default
    return min(int(written), most) if written.isascii() and written.isdigit() and len(written) < 12 else default
