"""CSV that a spreadsheet opens right, computes nothing of, and hands back unchanged.

UTF-8 with a byte order mark, semicolons, CRLF: so Excel in French opens it by a double click. A value that would
be taken for a formula, or for a number whose zeros or digits would be lost, has an apostrophe before it; our own
reader takes it off again (`importers.csv`). Source of the signs: OWASP, "CSV Injection" (read 2026-11-25).
"""

from __future__ import annotations

import csv
import io
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A file for its owner alone (mode 600), at `path` once the block has ended well and not before.

    Raises OSError.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".part-")
    try:
        with os.fdopen(handle, "wb") as out:
            yield out
        Path(name).replace(path)
    finally:
        Path(name).unlink(missing_ok=True)


START = b"\xef\xbb\xbf"
DELIMITER = ";"
#: text that begins so is computed; an apostrophe itself is guarded where the reader would take it for a guard
_FORMULA = "=+-@\t\r\n＝＋－＠"
_GUARD_LIKE = re.compile(rf"'[{re.escape(_FORMULA)}'0-9]")
#: a spreadsheet would drop the first zeros, or keep fifteen digits at most and show twelve as 3,3E+11
_NUMBER = re.compile(r"(?:0[\d \u00a0\u202f.]+|\d[\d \u00a0\u202f]{11,})")
#: a reader takes a longer cell for a quote that was never closed
_MOST_LINES = 30


def guarded(value: str) -> str:
    """A value as it may stand in a cell."""
    value = value.replace("\0", "")
    if value.startswith(tuple(_FORMULA)) or _GUARD_LIKE.match(value) or _NUMBER.fullmatch(value):
        return "'" + value
    return value


def one_cell(value: str) -> str:
    """With line breaks as LF; with slashes for them where the lines could be taken for rows of the table."""
    if "\n" not in value and "\r" not in value:
        return value
    lines = value.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    if len(lines) > _MOST_LINES or any(DELIMITER in line for line in lines):
        return " / ".join(line.strip() for line in lines if line.strip())
    return "\n".join(lines)


def line(values: Iterable[object]) -> bytes:
    """One record; None is an empty cell."""
    return lines([["" if value is None else str(value) for value in values]])


def lines(records: Iterable[Sequence[str]]) -> bytes:
    """Several records."""
    text = io.StringIO()
    writer = csv.writer(text, delimiter=DELIMITER, lineterminator="\r\n")
    writer.writerows([guarded(one_cell(value)) for value in record] for record in records)
    return text.getvalue().encode(errors="replace")
