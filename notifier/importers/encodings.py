"""Which encoding a text file is in, and whether an earlier program damaged its accents.

Settled over the whole file, in one pass, before its first row is read. A guess that is not certain is refused or
noted: read with the wrong encoding, two letters of every accented name would be wrong.
"""

from __future__ import annotations

import codecs
import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from notifier.importers.refusals import Refusal, refused
from notifier.importers.rows import Code, Note

_CHUNK = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Text:
    """How the text of a file is to be read."""

    encoding: str
    #: of the whole file
    sha256: bytes
    #: how often every line has to be `repaired`
    repairs: int = 0
    #: places with damaged accents that are left as they are
    damaged: int = 0

    def notes(self) -> Iterator[Note]:
        """What whoever handed it in should know."""
        if self.repairs:
            yield Note(Code.MOJIBAKE_REPAIRED)
        if self.damaged:
            yield Note(Code.MOJIBAKE_LEFT, self.damaged)
        if self.encoding in _OLD:
            yield Note(Code.OLD_ENCODING, names=(self.encoding,))


def examine(stream: BinaryIO) -> Text:
    """Encoding and SHA-256 of a whole file. Raises ListError if it is no text in an encoding that is known."""
    stream.seek(0)
    start = stream.read(4096)
    named = next((name for bom, name in _BOMS if start.startswith(bom)), None) or _utf_16_without_bom(start)
    decoder = codecs.getincrementaldecoder(named or "utf-8")()
    digest, accents = hashlib.sha256(), _Accents()
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
            raise refused(Refusal.ZERO_BYTES, byte=position + inside + 1)
        if is_valid:
            accents.add(text)
        position += len(chunk)
    if is_valid:
        return Text(named or "utf-8", digest.digest(), *accents.judged())
    if named:
        raise refused(Refusal.BROKEN_ENCODING, encoding=named.upper())
    return Text(_one_byte_encoding(stream), digest.digest())


_BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))


def _utf_16_without_bom(start: bytes) -> str | None:
    even, odd = start[0::2].count(0), start[1::2].count(0)
    half = len(start) // 2
    if half >= 4 and odd > half * 0.7 and even < half * 0.1:
        return "utf-16-le"
    return "utf-16-be" if half >= 4 and even > half * 0.7 and odd < half * 0.1 else None


# --- encodings of one byte --------------------------------------------------------------------------

_ASCII = bytes(range(0x80))
# ISO-8859-15 has € Š š Ž ž Œ œ Ÿ where ISO-8859-1 and cp1252 have ¤ ¦ ¨ ´ ¸ ¼ ½ ¾, which names never have;
# cp1252 has its own € œ ’ at 80–9F, where the ISO sets have control characters.
_ISO_15 = b"\xa4\xa6\xa8\xb4\xb8\xbc\xbd\xbe"
_CP1252 = bytes(range(0x80, 0xA0))
_CP1252_UNDEFINED = b"\x81\x8d\x8f\x90\x9d"
#: of programs for DOS and for the old Macintosh
_OLD = ("cp850", "mac_roman")
_FRENCH = "éèêëàâçîïôûùüœÉÈÊËÀÂÇÎÏÔÛÙÜŒ°’"
#: é è ç ê in the one, é è ç ê ù à â in the other: in cp1252 signs that French text does not have
_TELLING = {"cp850": b"\x82\x8a\x87\x88", "mac_roman": b"\x8e\x8f\x8d\x90\x9d\x88\x89"}
#: an old encoding is believed only if nearly all letters are French in it, few are in cp1252, and half of them
#: are telling: dashes, quotes and dots of cp1252 would be letters there
_SURE, _UNLIKELY, _ENOUGH = 0.9, 0.3, 0.5


def _one_byte_encoding(stream: BinaryIO) -> str:
    """Raises ListError for bytes that are no text in any encoding we know."""
    counts: Counter[int] = Counter()
    high = in_utf8 = 0
    stream.seek(0)
    while chunk := stream.read(_CHUNK):
        above = chunk.translate(None, _ASCII)
        counts.update(above)
        high += len(above)
        in_utf8 += len(chunk.decode("utf-8", "ignore").encode()) - (len(chunk) - len(above))
    if in_utf8 * 2 > high:
        # mostly UTF-8: read as cp1252 every accent would become two wrong letters, in names too
        raise refused(Refusal.MIXED_ENCODING)
    for encoding in _OLD:
        telling = sum(counts[byte] for byte in _TELLING[encoding])
        is_french = _french(counts, encoding) >= _SURE * high and _french(counts, "cp1252") <= _UNLIKELY * high
        if is_french and telling >= _ENOUGH * high:
            return encoding
    if any(counts[byte] for byte in _CP1252_UNDEFINED):
        raise refused(Refusal.UNKNOWN_ENCODING)
    only_cp1252 = any(counts[byte] for byte in _CP1252)
    return "cp1252" if only_cp1252 or not any(counts[byte] for byte in _ISO_15) else "iso-8859-15"


def _french(counts: Counter[int], encoding: str) -> int:
    return sum(counts[byte] for byte in _FRENCH.encode(encoding, "ignore") if byte >= 0x80)


# --- mojibake ---------------------------------------------------------------------------------------

#: what a byte 80–BF became, read as cp1252 or as ISO-8859-1
_FROM_BYTE = {byte: bytes([byte]).decode("cp1252", "ignore") or chr(byte) for byte in range(0x80, 0xC0)}
_TO_BYTE = {character: byte for byte, character in _FROM_BYTE.items()} | {chr(byte): byte for byte in _FROM_BYTE}
_TAIL = "[" + re.escape("".join(_TO_BYTE)) + "]"
#: UTF-8 of U+0080–U+017F, of punctuation and of €, read as cp1252 or ISO-8859-1; no text in French has these
_DAMAGED = re.compile(f"[ÂÃÄÅ]{_TAIL}|â(?:€|\x80){_TAIL}|â(?:‚|\x82)¬|â(?:„|\x84)¢|Æ(?:’|\x92)|Ë[†œ\x86\x9c]|ï»¿")
_LEADS = ("Ã", "Â", "Ä", "Å", "Æ", "Ë", "â€", "â\x80", "â‚", "â\x82", "â„", "â\x84", "ï»")


def repaired(text: str) -> str:
    """Text whose UTF-8 was read as cp1252 or ISO-8859-1, set right; other text as it is."""
    return text if text.isascii() else _DAMAGED.sub(_character, text)


def _character(damaged: re.Match[str]) -> str:
    # the first character and ¬ and the like are their own bytes in both encodings
    return bytes(_TO_BYTE.get(character, ord(character)) for character in damaged[0]).decode("utf-8", "replace")


class _Accents:
    """Whether all that is not ASCII is damaged in the same way; only then can it be repaired without a guess."""

    def __init__(self) -> None:
        self._carried = ""
        self._found = [0, 0]
        self._is_whole = [True, True]

    def add(self, text: str) -> None:
        if text.isascii() and not self._carried:
            return
        text = self._carried + text
        # a sequence may go on in the next piece; the last piece of all is empty
        keep = 0
        while keep < min(4096, len(text)) and not text[-1 - keep].isascii():
            keep += 1
        self._carried = text[len(text) - keep :] if keep else ""
        self._look(text[: len(text) - keep], 0)

    def _look(self, text: str, level: int) -> None:
        if not self._is_whole[level] and (level or not any(sign in text for sign in _LEADS)):
            return
        rest, found = _DAMAGED.subn("", text)
        self._found[level] += found
        self._is_whole[level] = self._is_whole[level] and rest.replace("\ufeff", "").isascii()
        if level == 0 and self._is_whole[0]:
            self._look(_DAMAGED.sub(_character, text), 1)

    def judged(self) -> tuple[int, int]:
        """How often to repair, and how many places stay damaged."""
        self._look(self._carried, 0)
        self._carried = ""
        if not self._found[0]:
            return 0, 0
        if not self._is_whole[0]:
            return 0, self._found[0]
        return (2, 0) if self._found[1] and self._is_whole[1] else (1, 0)
