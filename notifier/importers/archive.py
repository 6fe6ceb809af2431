"""Reads the XML parts of a spreadsheet's ZIP file piece by piece; whatever would exhaust the machine is refused.

Not read with `python-calamine`: it holds a whole sheet (750 MB at 1,000,000 rows of ten columns), reserves room
for every cell between the first and the last (a file of 2 kB with cells A1 and XFD1048576 aborts the process), and
does not tell hidden rows, errors and formulas without a result from empty cells (version 0.9, tried 2026-11-25).
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import BinaryIO
from xml.parsers import expat

from notifier.importers.refusals import Refusal, refused
from notifier.importers.rows import Limits

_CHUNK = 128 * 1024
_MOST_PARTS = 5000
#: deflate packs at most 1,032 bytes into one; real sheets, even empty ones with formats only, stay below 100
_HIGHEST_RATIO = 400
#: below this, packing is not looked at
_SMALL = 16 * 1024 * 1024
#: one tag with its attributes; the parser holds it whole
_LONGEST_TAG = 1024 * 1024
_DEEPEST = 100

#: by local name; called with the attributes
Starts = dict[str, Callable[[dict[str, str]], None]]
#: by local name
Ends = dict[str, Callable[[], None]]
Data = Callable[[str], None]


@contextmanager
def damage_refused() -> Iterator[None]:
    """What the ZIP, deflate and XML layers raise for a broken file becomes a ListError."""
    try:
        yield
    except (
        zipfile.BadZipFile,
        zipfile.LargeZipFile,
        zlib.error,
        expat.ExpatError,
        NotImplementedError,
        RuntimeError,
        EOFError,
        UnicodeError,
        ValueError,
        OverflowError,
        # an encoding that the XML names and nobody knows
        LookupError,
    ) as error:
        raise refused(Refusal.DAMAGED) from error


class Archive:
    """The parts of one spreadsheet. Raises ListError from every method if the file is damaged or a trap."""

    def __init__(self, stream: BinaryIO, limits: Limits) -> None:
        self._limits = limits
        with damage_refused():
            stream.seek(0)
            self._zip = zipfile.ZipFile(stream)
            self._parts = {info.filename.lstrip("/"): info for info in self._zip.infolist()}
        if len(self._parts) > _MOST_PARTS:
            raise refused(Refusal.MANY_PARTS, parts=len(self._parts), most=_MOST_PARTS)
        if sum(info.file_size for info in self._parts.values()) > limits.max_unpacked_bytes:
            raise refused(Refusal.UNPACKS_TOO_LARGE, most=limits.max_unpacked_bytes)
        self._folded = {name.casefold(): name for name in self._parts}

    def has(self, name: str) -> bool:
        return name.casefold() in self._folded

    def names(self) -> list[str]:
        return list(self._parts)

    def chunks(self, name: str, largest: int | None = None) -> Iterator[bytes]:
        """The bytes of a part, unpacked piece by piece; counted, whatever the file says of its size."""
        largest = largest or self._limits.max_unpacked_bytes
        with damage_refused():
            if (known := self._folded.get(name.casefold())) is None:
                raise refused(Refusal.DAMAGED)
            info = self._parts[known]
            _refuse_trap(info, largest)
            read = 0
            with self._zip.open(info) as part:
                while chunk := part.read(_CHUNK):
                    read += len(chunk)
                    if read > largest or (read > _SMALL and read > info.compress_size * _HIGHEST_RATIO):
                        raise refused(Refusal.UNPACKS_TOO_LARGE, most=largest)
                    yield chunk


def _refuse_trap(info: zipfile.ZipInfo, largest: int) -> None:
    if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise refused(Refusal.DAMAGED)
    is_bomb = info.file_size > _SMALL and info.file_size > info.compress_size * _HIGHEST_RATIO
    if is_bomb or info.file_size > largest:
        raise refused(Refusal.UNPACKS_TOO_LARGE, most=largest)


def parse(chunks: Iterator[bytes], starts: Starts, ends: Ends, data: Data | None = None) -> Iterator[None]:
    """Calls back for the elements named and for text; gives control back after every piece.

    Raises ListError for a DOCTYPE (entities are declared there: none is ever expanded), for tags that are too
    long or nested too deeply, and for what is no XML.
    """
    parser = expat.ParserCreate()
    parser.buffer_text = True
    depth = 0

    def opened(name: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > _DEEPEST:
            raise refused(Refusal.XML_DEPTH)
        call = starts.get(name) or starts.get(local(name))
        if call is not None:
            call(attributes)

    def closed(name: str) -> None:
        nonlocal depth
        depth -= 1
        call = ends.get(name) or ends.get(local(name))
        if call is not None:
            call()

    def doctype(*_: object) -> None:
        raise refused(Refusal.XML_ENTITIES)

    parser.StartElementHandler = opened
    parser.EndElementHandler = closed
    if data is not None:
        parser.CharacterDataHandler = data
    parser.StartDoctypeDeclHandler = doctype
    fed = 0
    with damage_refused():
        for chunk in chunks:
            parser.Parse(chunk, False)
            fed += len(chunk)
            if fed - parser.CurrentByteIndex > _LONGEST_TAG:
                raise refused(Refusal.XML_LONG_TAG)
            yield
        parser.Parse(b"", True)
    yield


def local(name: str) -> str:
    """A name without its namespace's prefix."""
    return name.rpartition(":")[2]
