"""Opens a patient list of any format: raw rows under columns whose meaning is known. No database, no judgement.

The format goes by what the file holds, never by its name: practice software calls CSV "export.xls" and so on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, date, datetime
from pathlib import Path
from typing import BinaryIO

from notifier.importers import csv, fhir, formats, ods, xlsx
from notifier.importers.columns import CONTACTS, IGNORE, NAMES, SEVERAL, Column, Header, Question, recognise
from notifier.importers.refusals import Refusal, as_error, refused
from notifier.importers.rows import (
    MAX_BYTES,
    WORDS,
    Asked,
    Code,
    Doubt,
    Format,
    Limits,
    Note,
    RawList,
    RawRow,
    Sheet,
    refuse_size,
)

__all__ = [
    "CONTACTS",
    "IGNORE",
    "MAX_BYTES",
    "NAMES",
    "SEVERAL",
    "WORDS",
    "Code",
    "Column",
    "Doubt",
    "Format",
    "Header",
    "Limits",
    "Note",
    "Question",
    "RawList",
    "RawRow",
    "Refusal",
    "Sheet",
    "as_error",
    "open_list",
    "recognise",
    "refused",
]

_READERS = {
    Format.CSV: csv.read,
    Format.XLSX: xlsx.read,
    Format.ODS: ods.read,
    Format.FHIR_NDJSON: fhir.read_lines,
    Format.FHIR_BUNDLE: fhir.read_bundle,
}


@contextmanager
def open_list(
    source: Path | BinaryIO,
    *,
    filename: str | None = None,
    mapping: Mapping[str, str] | None = None,
    sheet: str | None = None,
    today: date | None = None,
    limits: Limits | None = None,
    wanted: Callable[[RawRow], bool] | None = None,
) -> Iterator[RawList]:
    """Opens a list for reading; `source` is a path or a seekable binary stream.

    `filename` is only compared with the format. `mapping` gives columns their meaning (header → `Column`, or
    "ignore"), `sheet` chooses one of several; both answer `RawList.questions`. `today` ends the periods of FHIR
    contacts; the day in UTC if not given. `wanted` says which rows are read.

    Raises ListError if the file is empty, too big, of no known format, damaged, or has no header row with a
    contact column. The size is looked at before anything is read. Rows may raise it too: at a line that is too
    long, or where a file turns out to be damaged.
    """
    asked = Asked(mapping, sheet, today or datetime.now(UTC).date(), limits or Limits())
    is_path = isinstance(source, Path)
    try:
        stream = source.open("rb") if isinstance(source, Path) else source
        try:
            size = refuse_size(stream, asked.limits)
            opened = _read(stream, asked, source.name if isinstance(source, Path) and not filename else filename)
        except BaseException:
            if is_path:
                stream.close()
            raise
    except OSError as error:
        raise refused(Refusal.UNREADABLE, cause=error.strerror or type(error).__name__) from error
    opened.size_bytes, opened.wanted = size, wanted
    try:
        yield opened
    finally:
        if is_path:
            stream.close()


def _read(stream: BinaryIO, asked: Asked, filename: str | None) -> RawList:
    format_ = formats.recognise(stream)
    opened = _READERS[format_](stream, asked)
    if asked.mapping or asked.sheet:
        # the same file read in another way is another list: it must not pass for one imported already
        said = repr((sorted((asked.mapping or {}).items()), asked.sheet))
        opened.sha256 = hashlib.sha256(opened.sha256 + said.encode(errors="replace")).digest()
    if formats.contradicts(filename, format_):
        opened.add_note(Note(Code.WRONG_EXTENSION, names=(format_,)))
    return opened
