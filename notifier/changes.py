"""What reading a list changed in one cell, and that it did: for a report, never for a decision. Pure.

A change is told from what stood in the cell and what became of it, so that an import pays nothing for it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from enum import StrEnum

from notifier.addresses import tidy, visible


class Change(StrEnum):
    """What was done to a value that is used."""

    #: a spreadsheet had taken the zero of a number, and one reading alone is valid
    ZERO = "lost_zero_restored"
    #: the country code stood there without its plus
    PLUS = "lost_plus_restored"
    #: dialled in the practice's country: the country code is added
    COUNTRY = "country_added"
    #: dialled as in France, but of an overseas department's own numbering plan
    OVERSEAS = "overseas_country_added"
    #: 639980001.0
    DECIMALS = "spreadsheet_decimals_removed"
    #: blanks, dots and dashes between the digits
    SEPARATORS = "separators_removed"
    SEVERAL = "several_in_cell_separated"
    #: words beside a contact
    NOTE = "note_set_aside"
    #: a landline: for the call list
    FOR_CALLS = "kept_for_calls"
    #: the same contact stands in the row already
    AGAIN = "same_contact_again"
    DISPLAY_NAME = "display_name_removed"
    #: quotes, brackets, full stops and semicolons around it
    PUNCTUATION = "punctuation_removed"
    DOMAIN_CASE = "domain_in_lower_case"
    #: a domain with accents has an ASCII form that mail servers use (RFC 5890)
    DOMAIN_ASCII = "domain_in_ascii"
    INVISIBLE = "invisible_characters_removed"
    #: another writing of the same date
    DATE_FORM = "date_form"
    #: a spreadsheet's number of a day
    DATE_SERIAL = "date_from_spreadsheet_number"
    #: two digits of a year, where one century alone is possible
    CENTURY = "century_added"
    POSTAL_ZERO = "postal_code_zero_restored"
    #: postal code and town stood in one cell
    PLACE = "postal_code_and_town_parted"
    POSTAL_FORM = "postal_code_form"
    TITLE = "title_removed"
    ACCENTS = "damaged_accents_repaired"
    #: blanks and the like, no more
    FORM = "written_form"
    LANGUAGE = "language_code"
    #: its text is not kept
    COMMENT = "comment_kept_as_yes_or_no"
    #: only a keyed hash is kept
    HASHED = "national_id_kept_as_hash"


#: the meaning cannot have changed: shown only where every cell is asked for
OF_FORM = frozenset(
    {
        Change.COUNTRY, Change.SEPARATORS, Change.DOMAIN_CASE, Change.DATE_FORM, Change.FORM, Change.LANGUAGE,
        Change.COMMENT, Change.HASHED, Change.POSTAL_FORM, Change.FOR_CALLS,
    }
)  # fmt: skip

_INVISIBLE = {"Cf", "Cc"}


def _invisible(read: str) -> bool:
    return any(unicodedata.category(sign) in _INVISIBLE for sign in visible(read) if sign not in "\n\t") or (
        visible(read) != read.strip()
    )


def of_phone(cell: str, piece: str, note: str, e164: str) -> Iterator[Change]:
    """`piece` is the part of the cell that became `e164`, `note` the words beside it."""
    if _invisible(cell):
        yield Change.INVISIBLE
    if note:
        yield Change.NOTE
    digits = re.sub(r"\D", "", piece)
    if piece.rstrip(" \"'").endswith((".0", ",0", ".00", ",00")) and digits[:-1] and digits.strip("0"):
        yield Change.DECIMALS
        digits = re.sub(r"\D", "", re.sub(r"[.,]0+\D*$", "", piece))
    own = e164[1:]
    if "+" in piece or digits.startswith("00"):
        written = digits.removeprefix("00")
        if written != own or re.fullmatch(r"(\+|00)\d+", piece) is None:
            yield Change.SEPARATORS
    elif digits == own:
        yield Change.PLUS
    elif digits.startswith("0"):
        yield Change.COUNTRY if e164.startswith("+33") or not _is_french(digits, own) else Change.OVERSEAS
        if not piece.isdigit():
            yield Change.SEPARATORS
    elif own.endswith(digits) and len(digits) == 9:
        yield Change.ZERO
    else:
        yield Change.COUNTRY


def _is_french(digits: str, own: str) -> bool:
    """Whether a number of an overseas plan was dialled with a zero and nine digits, as within France."""
    return len(digits) == 10 and own[:3] in ("590", "594", "596", "262", "508") and own[:2] != "33"


def of_email(cell: str, piece: str, note: str, address: str) -> Iterator[Change]:
    """`piece` is the part of the cell that became `address`, `note` the words beside it."""
    if _invisible(cell):
        yield Change.INVISIBLE
    if note:
        yield Change.NOTE
    text = tidy(piece)
    if "<" in text and ">" in text and not text.startswith("<"):
        yield Change.DISPLAY_NAME
        text = text[text.index("<") + 1 : text.rindex(">")]
    bare = re.sub(r"^[\s<\"'«‘“=]+|[\s;,.<>\"'«»‘’“”=]+$", "", text)
    if bare != text or bare.startswith("mailto:"):
        yield Change.PUNCTUATION
    bare = bare.removeprefix("mailto:")
    domain, kept = bare.rpartition("@")[2], address.rpartition("@")[2]
    if domain != kept:
        yield Change.DOMAIN_CASE if domain.casefold() == kept else Change.DOMAIN_ASCII


def of_date(read: str, iso: str) -> Iterator[Change]:
    """`iso` is the day that was read."""
    text = tidy(read)
    if text == iso:
        return
    if re.fullmatch(r"\d{4,5}(\.0)?", text):
        yield Change.DATE_SERIAL
    elif iso[:4] not in text:
        yield Change.CENTURY
    else:
        yield Change.DATE_FORM


def of_text(read: str, became: str) -> Iterator[Change]:
    """A value that is kept nearly as it is: names, ids, lines of an address."""
    if read == became:
        return
    if _invisible(read):
        yield Change.INVISIBLE
    elif "Ã" in read or "Â" in read:
        yield Change.ACCENTS
    elif read.endswith(".0") and read.removesuffix(".0") == became:
        yield Change.DECIMALS
    elif became and tidy(read).endswith(became) and tidy(read) != became:
        yield Change.TITLE
    else:
        yield Change.FORM


def of_postal_code(read: str, became: str | None) -> Iterator[Change]:
    """`became` is the code that was read from the cell, or None where it gave none."""
    text = tidy(read)
    if became is None or text == became:
        return
    if text.removesuffix(".0").zfill(5) == became and len(text.removesuffix(".0")) < 5:
        yield Change.POSTAL_ZERO
    elif any(sign.isalpha() for sign in text[2:]):
        yield Change.PLACE
    elif text.removesuffix(".0") == became:
        yield Change.DECIMALS
    else:
        yield Change.POSTAL_FORM
