"""Tells the format of a list by what it holds; what is no list is refused in words that say what to do."""

from __future__ import annotations

import re
import zipfile
from pathlib import PurePath
from typing import BinaryIO

from notifier.errors import ListError
from notifier.importers.refusals import KINDS, Refusal, refused
from notifier.importers.rows import Format

_ZIP = b"PK\x03\x04"
_OTHER_KINDS = {
    b"%PDF": "pdf",
    b"\x1f\x8b": "gzip",
    b"7z\xbc\xaf": "7z",
    b"Rar!": "rar",
    b"\x89PNG": "picture",
    b"\xff\xd8\xff": "picture",
    b"{\\rtf": "rtf",
    b"SQLite format 3": "sqlite",
}
#: the container of old Office documents, and of new ones that are encrypted (MS-CFB §2.2, MS-OFFCRYPTO §2.3)
_COMPOUND = b"\xd0\xcf\x11\xe0"
_ENCRYPTED = "EncryptedPackage".encode("utf-16-le")
_START = 4096
_ENDINGS = {
    ".csv": {Format.CSV},
    ".txt": {Format.CSV},
    ".tsv": {Format.CSV},
    ".xlsx": {Format.XLSX},
    ".xlsm": {Format.XLSX},
    ".xls": set(),
    ".ods": {Format.ODS},
    ".ndjson": {Format.FHIR_NDJSON},
    ".jsonl": {Format.FHIR_NDJSON},
    ".json": {Format.FHIR_NDJSON, Format.FHIR_BUNDLE},
}


def recognise(stream: BinaryIO) -> Format:
    """The format of a file. Raises ListError for one that is none of ours."""
    stream.seek(0)
    start = stream.read(_START)
    if start.startswith((_ZIP, b"PK\x05\x06")):
        return _of_zip(stream)
    if start.startswith(_COMPOUND):
        raise _of_compound(stream)
    for magic, kind in _OTHER_KINDS.items():
        if start.startswith(magic):
            raise refused(Refusal.OTHER_FORMAT, kind=KINDS[kind])
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    if re.match(rb"(?i)<(!doctype|html|table|head|\?xml|body|meta)", text):
        raise refused(Refusal.WEB_PAGE)
    if text[:1] in (b"{", b"["):
        return _of_json(stream)
    return Format.CSV


def _of_compound(stream: BinaryIO) -> ListError:
    """What to do with an old or encrypted document; the names of its parts stand near its start or its end."""
    stream.seek(0)
    ends = stream.read(65536)
    stream.seek(max(0, stream.seek(0, 2) - 65536))
    if _ENCRYPTED in ends + stream.read(65536):
        return refused(Refusal.PASSWORD)
    return refused(Refusal.OLD_EXCEL)


def contradicts(filename: str | None, found: Format) -> bool:
    """Whether the ending of a name says another format; an unknown ending says nothing."""
    said = _ENDINGS.get(PurePath(filename or "").suffix.casefold())
    return said is not None and found not in said


def _of_zip(stream: BinaryIO) -> Format:
    try:
        with zipfile.ZipFile(stream) as archive:
            names = set(archive.namelist())
            mimetype = archive.read("mimetype") if _is_small(archive, "mimetype", names) else b""
    except (
        zipfile.BadZipFile,
        zipfile.LargeZipFile,
        NotImplementedError,
        RuntimeError,
        ValueError,
        EOFError,
    ) as error:
        raise refused(Refusal.DAMAGED_ARCHIVE) from error
    if mimetype.strip() == b"application/vnd.oasis.opendocument.spreadsheet" or (
        not mimetype and "content.xml" in names
    ):
        return Format.ODS
    if "xl/workbook.bin" in names:
        raise refused(Refusal.BINARY_EXCEL)
    if any(re.fullmatch(r"(?i)/?xl/workbook\d*\.xml", name) for name in names):
        return Format.XLSX
    if mimetype or "[Content_Types].xml" in names:
        raise refused(Refusal.DOCUMENT)
    raise refused(Refusal.ZIP_ARCHIVE)


def _is_small(archive: zipfile.ZipFile, name: str, names: set[str]) -> bool:
    return name in names and archive.getinfo(name).file_size < 200


_RESOURCE_TYPE = re.compile(rb'"resourceType"\s*:\s*"([A-Za-z]{1,64})"')
_ENTRY = re.compile(rb'"entry"\s*:\s*\[')


def _of_json(stream: BinaryIO) -> Format:
    """NDJSON has one resource in every line; a Bundle, an array or indented JSON goes over lines. The first 64 KiB
    tell."""
    stream.seek(0)
    start = stream.read(65536).removeprefix(b"\xef\xbb\xbf").lstrip()
    named, entry = _RESOURCE_TYPE.search(start), _ENTRY.search(start)
    if not named:
        raise refused(Refusal.NOT_FHIR)
    first_line = start.split(b"\n", 1)[0].strip()
    is_bundle = named[1] == b"Bundle" or (entry is not None and entry.start() < named.start())
    is_indented = first_line == b"{" or start.startswith(b"[")
    return Format.FHIR_BUNDLE if is_bundle or is_indented else Format.FHIR_NDJSON
