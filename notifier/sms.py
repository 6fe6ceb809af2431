"""Measures an SMS: its alphabet, its units and the parts it is charged as; replaces what only costs money.

Source: 3GPP TS 23.038 §6.2.1 (GSM 7 bit default alphabet and extension table), TS 23.040 §9.2.3.24.1
(a concatenated part carries a header of 6 octets: 153 septets or 67 UTF-16 units are left).
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Literal

Encoding = Literal["GSM-7", "UCS-2"]

_BASIC = frozenset(
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?"
    "¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
#: two septets each
_EXTENSION = frozenset("\f^{}\\[~]|€")
_GSM = _BASIC | _EXTENSION

#: units in a single SMS, and in each part of a longer one
_ROOM: dict[Encoding, tuple[int, int]] = {"GSM-7": (160, 153), "UCS-2": (70, 67)}

#: what a reader does not miss: typography, blanks, ligatures
_REPLACED = {
    **dict.fromkeys("‘’‚‛′´`ʼ", "'"),
    **dict.fromkeys("“”„‟″«»", '"'),
    **dict.fromkeys("‐‑‒–—―−•·", "-"),
    "…": "...",
    **dict.fromkeys(
        "\t\u00a0\u1680\u202f\u205f\u3000\u2028\u2029\u0085" + "".join(map(chr, range(0x2000, 0x200B))), " "
    ),
    **dict.fromkeys("\u00ad\u180e\u200b\u200c\u200d\u200e\u200f\u2060\ufeff", ""),
    "œ": "oe",
    "Œ": "OE",
    "ł": "l",
    "Ł": "L",
    "đ": "d",
    "Đ": "D",
    "ħ": "h",
    "Ħ": "H",
    "ı": "i",
    "×": "x",
    "½": "1/2",
    "¼": "1/4",
    "¾": "3/4",
}
# "n° 5": the degree sign alone is not in the alphabet, and 20° may not become 20o
_NUMERO = re.compile(r"(?<=[nN])°")


@dataclass(frozen=True, slots=True)
class Sms:
    """How a text travels. `text` is what is sent, `replaced` the characters of the original changed for it."""

    encoding: Encoding
    #: septets (GSM-7) or UTF-16 code units (UCS-2) without headers
    units: int
    #: what is charged; 0 for an empty text
    parts: int
    replaced: tuple[str, ...]
    text: str


def measure(text: str) -> Sms:
    """Fits the text into GSM-7 where the reader loses nothing, else leaves its letters as they are.

    Blanks around the text go. One character outside GSM-7 makes the whole text UCS-2: then nothing is replaced
    but line ends, so that an emoji never becomes "?" and names keep their letters.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n").strip()
    fitted = _fitted(text)
    if fitted is None:
        units = [2 if ord(character) > 0xFFFF else 1 for character in text]
        return Sms("UCS-2", sum(units), _parts(units, "UCS-2"), (), text)
    plain, replaced = fitted[0].strip(), fitted[1]
    units = [2 if character in _EXTENSION else 1 for character in plain]
    return Sms("GSM-7", sum(units), _parts(units, "GSM-7"), replaced, plain)


def _fitted(text: str) -> tuple[str, tuple[str, ...]] | None:
    """The text in GSM-7 and what was replaced, or None if a reader would lose something."""
    if _GSM.issuperset(text):
        return text, ()
    # é may come as e and a combining accent: one character, and in the alphabet
    text = (
        _NUMERO.sub("o", unicodedata.normalize("NFC", text)) if "°" in text else unicodedata.normalize("NFC", text)
    )
    replaced: dict[str, str] = {}
    for character in dict.fromkeys(text):
        if character not in _GSM:
            replacement = _replacement(character)
            if replacement is None:
                return None
            replaced[character] = replacement
    return text.translate({ord(old): new for old, new in replaced.items()}), tuple(replaced)


def _replacement(character: str) -> str | None:
    if character in _REPLACED:
        return _REPLACED[character]
    # ç → c, ê → e, À → A; a letter without its accent still reads as the same word
    base = unicodedata.normalize("NFD", character)[0]
    return base if base != character and base.isascii() and base.isalpha() else None


def _parts(units: list[int], encoding: Encoding) -> int:
    """Counted part by part: an escape pair or a surrogate pair never straddles two parts."""
    single, room = _ROOM[encoding]
    total = sum(units)
    if total <= single:
        return 1 if total else 0
    parts, used = 1, 0
    for unit in units:
        if used + unit > room:
            parts, used = parts + 1, 0
        used += unit
    return parts
