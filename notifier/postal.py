"""Postal codes, towns and the lines of a letter's address, as French lists need them. Pure.

A code is repaired only where one reading is possible: a lost zero, a country prefix, a decimal point from a
spreadsheet, code and town in one cell. Anything else stays as it is written, for a person to see.
"""

from __future__ import annotations

import functools
import re
from typing import NamedTuple

from notifier.addresses import folded, tidy, unaccented

#: where codes of five digits are in use and a spreadsheet may have taken their zero
_FRENCH_CODES = frozenset({"FR", "GP", "RE", "YT", "GF", "MQ", "PM", "MC", "BL", "MF"})
_FRANCE = frozenset({"", "france", "fr", "fra", "f", "francemetropolitaine", "monaco", "mc"})
_CODE = re.compile(r"(?:f|fr)?[ -]*(\d{2}) ?(\d{3})", re.IGNORECASE)
_CODE_AND_TOWN = re.compile(r"(?:f|fr)?[ -]*(\d{4,5}|\d{2} \d{3})[ ,-]+([^\W\d_].*)", re.IGNORECASE)
_TOWN_AND_CODE = re.compile(r"([^\W\d_][^\d]*?)[ ,(-]+(\d{5})\)?")
#: the end of an address in one cell
_END = re.compile(r"[\s,]*\b(\d{5})\s+([^\W\d].*)$")


class Place(NamedTuple):
    """Where a letter goes: postal code and town."""

    code: str | None
    town: str | None


@functools.lru_cache(maxsize=65536)
def place(code: str | None, town: str | None, region: str = "FR", country: str | None = None) -> Place:
    """Postal code and town, repaired; `country` as the row writes it, `region` is the practice's.

    A zero is put back only for France and Monaco: Belgium, Switzerland and Luxembourg have four digits.
    """
    code, town = _plain(code), _plain(town)
    if code:
        code = code.removesuffix(".0")
        if not town and (found := _CODE_AND_TOWN.fullmatch(code)):
            code, town = found[1], found[2]
    elif town and (found := _CODE_AND_TOWN.fullmatch(town)):
        code, town = found[1], found[2]
    elif town and (found := _TOWN_AND_CODE.fullmatch(town)):
        town, code = found[1], found[2]
    if code and town:
        town = re.sub(rf"^{re.escape(code)}\s+(?=\S)", "", town)
    return Place(_french(code, region, country) if code else None, town or None)


def _plain(text: str | None) -> str | None:
    return tidy(text) if text else None


def _french(code: str, region: str, country: str | None) -> str:
    if region not in _FRENCH_CODES or folded(country or "") not in _FRANCE:
        return code
    if found := _CODE.fullmatch(code):
        return found[1] + found[2]
    return code.zfill(5) if len(code) == 4 and code.isascii() and code.isdigit() else code


def from_lines(lines: tuple[str, ...]) -> tuple[tuple[str, ...], Place]:
    """Takes code and town from the end of an address written in one cell."""
    found = _END.search(lines[-1]) if lines else None
    if not found:
        return lines, Place(None, None)
    street = lines[-1][: found.start()].strip(" ,")
    return (*lines[:-1], street) if street else lines[:-1], Place(found[1], found[2].strip())


def department(code: str | None) -> str | None:
    """The French department of a postal code ("01", "2A", "974"), or None."""
    if not code or not re.fullmatch(r"\d{5}", code, re.ASCII):
        return None
    if code.startswith("20"):
        return "2A" if code < "20200" else "2B"
    return code[:3] if code.startswith(("97", "98")) else code[:2]


# --- window envelopes -------------------------------------------------------------------------------

#: NF Z10-011: no line has more characters, blanks included
LINE = 38
#: NF Z10-011: name, three lines for the way to the door, one for place or box, code and town; then the country
LINES = 6
#: abbreviations of La Poste for lines that are too long, the most common first
_SHORT = {
    "APPARTEMENT": "APT", "BATIMENT": "BAT", "RESIDENCE": "RES", "ESCALIER": "ESC", "ETAGE": "ETG",
    "AVENUE": "AV", "BOULEVARD": "BD", "PLACE": "PL", "IMPASSE": "IMP", "ALLEE": "ALL", "ALLEES": "ALL",
    "CHEMIN": "CHE", "ROUTE": "RTE", "SQUARE": "SQ", "FAUBOURG": "FG", "LOTISSEMENT": "LOT", "QUARTIER": "QUA",
    "IMMEUBLE": "IMM", "ENTREE": "ENT", "PASSAGE": "PAS", "HAMEAU": "HAM", "ZONE": "ZN", "MAISON": "MAIS",
    "GENERAL": "GAL", "MARECHAL": "MAL", "DOCTEUR": "DR", "PROFESSEUR": "PR", "PRESIDENT": "PDT",
    "SAINT": "ST", "SAINTE": "STE",
}  # fmt: skip
_NO_PUNCTUATION = re.compile(r"[^\w' /+&-]+")


def window_lines(
    name: str, address: tuple[str, ...], code: str | None, town: str | None, country: str | None = None
) -> list[str] | None:
    """The lines of an address in a window envelope, or None where they cannot be made to fit.

    At most six lines of 38 signs, and a seventh for the country abroad; capitals without accents or punctuation
    (AFNOR NF Z10-011). Long lines are shortened by La Poste's abbreviations, then broken between words; nothing
    is ever cut off. None also where street, code or town are missing: no letter can be sent.
    """
    if not (name.strip() and address and code and town):
        return None
    middle = [part for line in address if (plain := _line(line)) for part in _broken(_shortened(plain))]
    abroad = [] if folded(country or "") in _FRANCE else [_line(country or "")]
    names, place_line = _broken(_line(name)), _line(f"{code} {town}")
    lines = [*names, *middle, place_line]
    is_whole = names and middle and all(_line(part) for part in (code, town)) and all(abroad)
    fits = is_whole and len(lines) <= LINES and all(len(line) <= LINE for line in lines + abroad)
    return lines + abroad if fits else None


def _line(text: str) -> str:
    plain = unaccented(tidy(text)).upper().replace("\u2019", "'")
    words = _NO_PUNCTUATION.sub(" ", plain).split()
    return " ".join(word for word in words if any(character.isalnum() for character in word))


def _shortened(line: str) -> str:
    """With abbreviations from the left, no more than are needed."""
    words = line.split()
    for place_, word in enumerate(words):
        if len(" ".join(words)) <= LINE:
            break
        words[place_] = _SHORT.get(word, word)
    return " ".join(words)


def _broken(line: str) -> list[str]:
    lines = [""]
    for word in line.split():
        joined = f"{lines[-1]} {word}".strip()
        if len(joined) <= LINE:
            lines[-1] = joined
        else:
            lines.append(word)
    return [part for part in lines if part]
