"""Normalises and checks one phone number or one email address. Pure: no database, no network, no clock.

A wrong repair tells a stranger that somebody is a patient, so a damaged contact is restored only where
exactly one reading of it is valid; everything else is refused with a `Reason` and goes back to the doctor.
`phonenumbers` and `email-validator` judge; this module adds what they get wrong for French patient lists.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, NamedTuple

import phonenumbers
from email_validator import EmailNotValidError, validate_email
from phonenumbers import PhoneNumberType


class Reason(StrEnum):
    """Why a contact cannot be used; `WORDS` has the sentence for people."""

    EMPTY = "empty"
    #: more than one number or address where one was expected
    SEVERAL = "several"
    #: a note beside it says that it must not be used
    DO_NOT_USE = "do_not_use"
    #: a note beside it says whose it is: a neighbour, a spouse, a grown child; not the patient's to be told on
    NOT_THEIRS = "contact_of_another_adult"
    #: words stand beside it whose meaning is not known: they may say that it is wrong
    UNKNOWN_NOTE = "unknown_note"
    #: typed instead of a contact that is not known
    FILLER = "filler"
    #: letters or a mask among the digits: the hidden digits cannot be known
    LETTERS = "letters_in_number"
    UNKNOWN_CHARACTER = "unknown_character"
    #: a spreadsheet has rounded the number: digits are lost
    SCIENTIFIC = "digits_lost"
    TOO_SHORT = "too_short"
    TOO_LONG = "too_long"
    #: several different readings are valid numbers
    AMBIGUOUS = "ambiguous"
    #: 0700 is for machines (Arcep, plan national de numérotation)
    M2M = "m2m"
    SHORT_NUMBER = "short_number"
    #: no operator may give out this number
    NOT_ASSIGNED = "not_assigned"
    NO_AT = "no_at_sign"
    SYNTAX = "invalid_syntax"
    DOMAIN = "invalid_domain"
    COMMA_FOR_DOT = "comma_for_dot"
    #: RFC 6531: such an address has no ASCII form; in French lists it is nearly always a typing error
    ACCENT = "accent_in_local_part"
    MISTYPED = "domain_probably_mistyped"
    #: a shared mailbox of a company, a practice or a machine; "(perso)" beside it says that it is the person's own
    ROLE = "role_address"
    #: the domain does not exist or says that it takes no mail (RFC 7505)
    NO_MAIL = "domain_takes_no_mail"


#: what people read: (French, English)
WORDS: dict[Reason, tuple[str, str]] = {
    Reason.EMPTY: ("La case est vide.", "The cell is empty."),
    Reason.SEVERAL: ("Il y en a plusieurs dans la même case.", "There are several in one cell."),
    Reason.DO_NOT_USE: ("La note demande de ne pas l'utiliser.", "A note says that it must not be used."),
    Reason.NOT_THEIRS: ("La note désigne un autre adulte.", "A note says that it is another adult's."),
    Reason.UNKNOWN_NOTE: (
        "Une note inconnue l'accompagne : elle peut dire que le contact est faux.",
        "An unknown note stands beside it: it may say that the contact is wrong.",
    ),
    Reason.FILLER: ("Valeur de remplissage, pas un vrai contact.", "A filler, not a real contact."),
    Reason.LETTERS: ("Le numéro contient des lettres ou un masque.", "The number has letters or a mask in it."),
    Reason.UNKNOWN_CHARACTER: ("Le numéro contient un signe inconnu.", "The number has an unknown sign in it."),
    Reason.SCIENTIFIC: (
        "Le tableur a arrondi le numéro : des chiffres sont perdus.",
        "The spreadsheet rounded the number: digits are lost.",
    ),
    Reason.TOO_SHORT: ("Il manque des chiffres.", "Digits are missing."),
    Reason.TOO_LONG: ("Trop long.", "Too long."),
    Reason.AMBIGUOUS: ("Plusieurs lectures sont possibles.", "It can be read in several ways."),
    Reason.M2M: ("Numéro réservé aux machines (0700).", "A number for machines (0700)."),
    Reason.SHORT_NUMBER: ("Numéro court ou d'urgence.", "A short or emergency number."),
    Reason.NOT_ASSIGNED: ("Ce numéro n'est pas attribué.", "No such number is in use."),
    Reason.NO_AT: ("Il manque le signe @.", "The @ sign is missing."),
    Reason.SYNTAX: ("L'adresse est mal écrite.", "The address is not well formed."),
    Reason.DOMAIN: ("La partie après @ n'est pas valable.", "The part after @ is not valid."),
    Reason.COMMA_FOR_DOT: ("Une virgule à la place d'un point.", "A comma in the place of a dot."),
    Reason.ACCENT: ("Un accent avant le signe @.", "An accent before the @ sign."),
    Reason.MISTYPED: (
        "La partie après @ est sans doute mal saisie.",
        "The part after @ is probably mistyped.",
    ),
    Reason.ROLE: (
        "Boîte d'un service ou d'une entreprise, lue par d'autres. Si c'est bien la sienne, "
        "ajoutez « (perso) » à côté.",
        "A mailbox of an office or company, read by others. If it is the person's own, write '(perso)' beside it.",
    ),
    Reason.NO_MAIL: (
        "Le domaine (après @) n'existe pas ou ne reçoit pas de courriel.",
        "The domain (after @) does not exist or takes no mail.",
    ),
}


@dataclass(frozen=True, slots=True)
class Phone:
    """What is known about one number. `ok` says that it exists in the numbering plan, not that SMS reach it."""

    ok: bool
    e164: str | None = None
    #: mobile, fixed_or_mobile, landline, voip, premium, toll_free, shared_cost, m2m, short, other; None unknown
    kind: str | None = None
    #: ISO 3166-1 of the numbering plan; overseas departments have their own
    region: str | None = None
    sms_capable: bool = False
    reason: Reason | None = None


@dataclass(frozen=True, slots=True)
class Email:
    """What is known about one address. Only `ok` ones may be written to."""

    ok: bool
    #: local part as typed, domain in lower-case ASCII; set wherever the syntax is right
    address: str | None = None
    reason: Reason | None = None
    #: what was probably meant; never used by itself, a person confirms it
    suggestion: str | None = None

    @property
    def key(self) -> str | None:
        """Equal for addresses of one mailbox: case is ignored although RFC 5321 §2.4 leaves it to the host."""
        return None if self.address is None else unicodedata.normalize("NFC", self.address).casefold()


class Piece(NamedTuple):
    """One contact of a cell that may hold several, with the words that stood beside it."""

    text: str
    note: str = ""
    do_not_use: bool = False
    #: the note has words that are not known
    is_unclear: bool = False

    @property
    def is_of_another(self) -> bool:
        """Whether the note names somebody else: a parent, a neighbour."""
        return bool(self.note) and not _PEOPLE.isdisjoint(_plain_words(self.note))

    @property
    def is_personal(self) -> bool:
        """Whether the note says that it is the person's own: "(perso)"."""
        return bool(self.note) and not _PERSONAL.isdisjoint(_plain_words(self.note))

    @property
    def refusal(self) -> Reason | None:
        """Why the note alone forbids to use the contact. Parents and guardians may be told for a patient."""
        if self.do_not_use:
            return Reason.DO_NOT_USE
        if self.note and not _OTHER_ADULTS.isdisjoint(_plain_words(self.note)):
            return Reason.NOT_THEIRS
        return Reason.UNKNOWN_NOTE if self.is_unclear else None


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# --- what both need ---------------------------------------------------------------------------------

_INVISIBLE = dict.fromkeys(
    [
        0x00AD,
        0x034F,
        0x061C,
        0x180E,
        *range(0x200B, 0x2010),
        *range(0x202A, 0x202F),
        *range(0x2060, 0x2070),
        0xFEFF,
    ]
)
_BLANK = re.compile(r"\s")


def tidy(value: str) -> str:
    """Without invisible characters, with plain spaces, in NFC, trimmed; what no encoding has becomes `?`."""
    if not value.isascii():
        value = unicodedata.normalize("NFC", value.translate(_INVISIBLE)).encode(errors="replace").decode()
    if not value.isprintable():
        value = _BLANK.sub(" ", value)
    return value.strip()


def visible(value: str) -> str:
    """Without invisible characters and trimmed; line breaks inside stay."""
    return value.strip() if value.isascii() else value.translate(_INVISIBLE).strip()


def unaccented(text: str) -> str:
    """Accents taken off, ligatures opened, anything else as it is."""
    if text.isascii():
        return text
    text = text.replace("œ", "oe").replace("Œ", "OE").replace("æ", "ae").replace("Æ", "AE")
    return "".join(c for c in unicodedata.normalize("NFD", text) if not unicodedata.combining(c))


@functools.lru_cache(maxsize=65536)
def folded(name: str) -> str:
    """Equal for one name in any capitals, accents, blanks and punctuation."""
    plain = unaccented(name).casefold()
    return "".join(character for character in plain if character.isalnum())


# Words that may stand beside a contact; with any other word the cell is refused, for it may say "wrong number".
_GUARDIANS = _words(
    "mere pere maman papa parent parents tuteur tutrice curateur curatrice representant representante "
    "mother father mum mom dad guardian"
)
_OTHER_ADULTS = _words(
    "fils fille frere soeur conjoint conjointe mari epoux epouse femme compagnon compagne concubin concubine ami "
    "amie copain copine voisin voisine ex cousin cousine oncle tante neveu niece gendre beau belle grand collegue "
    "partenaire daughter wife husband brother sister neighbour neighbor friend partner"
)
_PEOPLE = _GUARDIANS | _OTHER_ADULTS
_PERSONAL = _words("perso personnel personnelle prive privee private personal")
_NOTE_WORDS = (
    _PEOPLE
    | _PERSONAL
    | _words(
        "travail bureau boulot pro professionnel professionnelle domicile dom "
        "maison fixe portable port mobile mob gsm cell tel telephone t tph numero num n no principal secondaire "
        "legal legale sms email mail courriel e matin midi soir urgence journee le la de du d l son sa ses mr m "
        "mme melle mlle work office home phone cellphone main other autre"
    )
)
_STOP_NOTE = re.compile(
    r"\b(ne (pas|plus)|pas (appeler|utiliser|contacter)|stop|faux|fausse|errone|ancien|ancienne|hs|invalide"
    r"|plus (valable|attribue)"
    r"|erreur|erronee|mauvaise?|a supprimer|supprimee?|decedee?|resiliee?"
    r"|do not|don't|dont|wrong|old|fax|telecopie)\b"
)


def _plain_words(words: str) -> list[str]:
    return re.findall(r"[^\W\d_]+", unaccented(words).casefold())


def _is_note(words: str) -> bool:
    return all(word in _NOTE_WORDS for word in _plain_words(words))


def _is_stop(words: str) -> bool:
    return bool(_STOP_NOTE.search(unaccented(words).casefold()))


# --- phone numbers ----------------------------------------------------------------------------------

#: France and its overseas departments share one way of dialling (0 and nine digits), not one country code.
_FRENCH = ("FR", "GP", "RE", "YT", "GF", "MQ", "PM")
_BY_POSTAL_CODE = {"971": "GP", "972": "MQ", "973": "GF", "974": "RE", "975": "PM", "976": "YT"}
_BY_POSTAL_CODE |= {"977": "GP", "978": "GP"}  # Saint-Barthélemy and Saint-Martin use Guadeloupe's plan
# Arcep, plan national de numérotation: these blocks are overseas although libphonenumber takes the landlines
# among them for mainland numbers.
_BY_BLOCK = {"590": "GP", "596": "MQ", "594": "GF", "262": "RE", "269": "YT", "508": "PM"}
# Arcep keeps 06 39 98 xx xx for films and books. libphonenumber calls it invalid, and 0639 is otherwise Mayotte;
# made-up people of rehearsals and tests have these numbers, so exactly this block passes as a French mobile.
_FICTITIOUS = "63998"
_BARE_CODES = ("33", "262", "590", "594", "596", "508")

_KINDS = {
    PhoneNumberType.FIXED_LINE: "landline",
    PhoneNumberType.MOBILE: "mobile",
    PhoneNumberType.FIXED_LINE_OR_MOBILE: "fixed_or_mobile",
    PhoneNumberType.VOIP: "voip",
    PhoneNumberType.PREMIUM_RATE: "premium",
    PhoneNumberType.TOLL_FREE: "toll_free",
    PhoneNumberType.SHARED_COST: "shared_cost",
}
_SMS_KINDS = frozenset({"mobile", "fixed_or_mobile"})

_SEPARATORS = str.maketrans("", "", " .-/()_\u2010\u2011\u2012\u2013\u2014\u2212")
_WRAPPING = " '\"=«»\u2018\u2019\u201c\u201d`"
_MAX_DIGITS = 15  # ITU-T E.164 §6
_FLOAT = re.compile(r"(\+?\d{6,15})[.,]0+")
_SCIENTIFIC = re.compile(r"\d([.,]\d+)?E\+?\d+", re.IGNORECASE)
_DIGITS = re.compile(r"(\+?)([0-9]+)", re.ASCII)
# 0000000000, 06 06 06 06 06, 06 00 00 00 00, 1111111
_FILLER = re.compile(r"(\d)\1{4,}|(\d\d)\2{4}|0\d(\d)\3{7}|(?:33|0033)\d(\d)\4{7}")


def check_phone(
    value: str, region: str = "FR", postal_code: str | None = None, country: str | None = None
) -> Phone:
    """Judges one number dialled as in `region` (the practice's); overseas blocks go by the patient's postal code.

    `country` (ISO 3166-1) is the patient's, where it is abroad: a number without its country code may be dialled
    as there or as here, and is read only where it is no number here.
    Never drops, adds or turns characters into digits except the leading zero or plus that spreadsheets lose.
    """
    text = tidy(value).strip(_WRAPPING)
    if not text:
        return Phone(ok=False, reason=Reason.EMPTY)
    found = _DIGITS.fullmatch(text.translate(_SEPARATORS))
    if text.endswith("0") and (float_form := _FLOAT.fullmatch(text)):
        found = _DIGITS.fullmatch(float_form[1])
    elif not found:
        text = re.sub(r"^0\s*\+", "+", text)
        found = _DIGITS.fullmatch(text.translate(_SEPARATORS))
    if not found:
        return _with_words(text, region, postal_code, country)
    if len(found[2]) > _MAX_DIGITS:
        return Phone(ok=False, reason=Reason.SEVERAL if len(split_phones(value)) > 1 else Reason.TOO_LONG)
    if country and country != region and not found[1] and not found[2].startswith("00"):
        return _of_two_countries(found[2], region, postal_code, country)
    return _judge(bool(found[1]), found[2], region, postal_code)


# ten digits in pairs with one kind of separator, or none; 02 and 05 are shared with overseas departments
_PLAIN_PHONE = re.compile(
    r"(?:0|\+33 ?(?:\(0\) ?)?|0033 ?)([13467])([ .-]?)(\d\d)\2(\d\d)\2(\d\d)\2(\d\d)", re.ASCII
)


def plain_phone(cell: str, region: str) -> tuple[str, bool] | None:
    """The commonest cells, quickly: (E.164, whether it takes SMS) of one mainland number in a plain writing.

    Exactly what `check_phone` says for any postal code; None says nothing: ask `split_phones` and `check_phone`.
    """
    found = _PLAIN_PHONE.fullmatch(cell)
    if found is None or region not in _FRENCH:
        return None
    first, _, one, two, three, four = found.groups()
    number = first + one + two + three + four
    takes_sms = _mainland(number[:5])
    if takes_sms is None or _FILLER.fullmatch("0" + number):
        return None
    return "+33" + number, takes_sms


@functools.cache
def _mainland(block: str) -> bool | None:
    """Whether numbers that begin so are mobiles; None where that does not settle it. Mainland plans go by the
    first three digits; of 0639, which is Mayotte's but for the fictitious block, five are needed."""
    if block == _FICTITIOUS:
        return True
    found = _in_plan("FR", block + "5678")
    return found.sms_capable if found and found.kind in ("mobile", "landline") else None


def _with_words(text: str, region: str, postal_code: str | None, country: str | None) -> Phone:
    if _SCIENTIFIC.fullmatch(text.replace(" ", "")):
        return Phone(ok=False, reason=Reason.SCIENTIFIC)
    pieces = split_phones(text)
    if len(pieces) != 1:
        return Phone(ok=False, reason=Reason.SEVERAL if pieces else Reason.EMPTY)
    piece = pieces[0]
    if piece.refusal:
        return Phone(ok=False, reason=piece.refusal)
    if piece.text != text:
        return check_phone(piece.text, region, postal_code, country)
    if re.search(r"[^\W\d_]|[*#?•]", text):
        return Phone(ok=False, reason=Reason.LETTERS)
    return Phone(ok=False, reason=Reason.UNKNOWN_CHARACTER)


def _judge(plus: bool, digits: str, region: str, postal_code: str | None) -> Phone:
    if _FILLER.fullmatch(digits):
        return Phone(ok=False, reason=Reason.FILLER)
    if plus:
        return _international(digits)
    if region not in _FRENCH:
        return _elsewhere(digits, region)
    if digits.startswith("00"):
        return _international(digits[2:])
    if region == "PM" and len(digits) in (6, 7) and (phone := _in_plan("PM", digits[-6:])):
        return phone
    if digits.startswith("0"):
        return _french_national(digits, region, postal_code)
    return _without_zero_or_plus(digits, region, postal_code)


def _of_two_countries(digits: str, region: str, postal_code: str | None, country: str) -> Phone:
    """A number without its country code of somebody who lives in another country than the practice's: never a
    number of here alone, for that is a stranger's where a digit is wrong there."""
    here, there = _judge(False, digits, region, postal_code), _by_library(digits, country)
    if not here.ok:
        # a filler, a short number and the like are that everywhere
        return there if there.ok and here.reason not in (Reason.FILLER, Reason.M2M) else here
    has_code = here.e164 == f"+{digits}"
    if here.e164 == there.e164 or (has_code and not there.ok):
        return here
    return Phone(ok=False, reason=Reason.AMBIGUOUS)


def _french_national(digits: str, region: str, postal_code: str | None) -> Phone:
    """0 and nine digits, in whichever department's plan it is valid."""
    number = digits[1:]
    if number.startswith("700") and len(number) in (9, 13):
        return Phone(ok=False, kind="m2m", region="FR", reason=Reason.M2M)
    if len(number) != 9:
        return Phone(ok=False, reason=Reason.TOO_SHORT if len(number) < 9 else Reason.TOO_LONG)
    if number.startswith(_FICTITIOUS):
        return _usable("+33" + number, "mobile", "FR")
    if number.startswith("508"):  # dialled 0508 and six digits, written +508 and six digits
        saint_pierre = _in_plan("PM", number[3:])
        if saint_pierre:
            return saint_pierre
    first = _BY_POSTAL_CODE.get(postal_code[:3]) if postal_code else None
    for candidate in (first, _BY_BLOCK.get(number[:3]), "FR", region, *_FRENCH):
        if candidate and (phone := _in_plan(candidate, number)):
            return phone
    return Phone(ok=False, reason=Reason.NOT_ASSIGNED)


def _without_zero_or_plus(digits: str, region: str, postal_code: str | None) -> Phone:
    """A spreadsheet took the leading zero or plus: restored only where exactly one reading is valid."""
    readings = []
    if len(digits) == 9:
        readings.append(_french_national("0" + digits, region, postal_code))
    if digits.startswith(_BARE_CODES):
        readings.append(_international(digits))
    valid = {reading.e164: reading for reading in readings if reading.ok}
    if len(valid) == 1:
        return valid.popitem()[1]
    if len(valid) > 1:
        return Phone(ok=False, reason=Reason.AMBIGUOUS)
    if len(digits) <= 6:
        kind, reason = ("short", Reason.SHORT_NUMBER) if len(digits) <= 4 else (None, Reason.TOO_SHORT)
        return Phone(ok=False, kind=kind, reason=reason)
    if readings:
        return readings[0]
    return Phone(ok=False, reason=Reason.TOO_SHORT if len(digits) < 9 else Reason.TOO_LONG)


def _international(digits: str) -> Phone:
    if digits.startswith("33"):
        # fast path; 0 after the country code ("+33 (0)6…") is not part of the number
        number = digits[3:] if digits[2:3] == "0" else digits[2:]
        if len(number) == 9:
            if number.startswith(_FICTITIOUS):
                return _usable("+33" + number, "mobile", "FR")
            if number.startswith("700"):
                return Phone(ok=False, kind="m2m", region="FR", reason=Reason.M2M)
            return _in_plan("FR", number) or Phone(ok=False, reason=Reason.NOT_ASSIGNED)
    return _by_library("+" + digits, None)


def _elsewhere(digits: str, region: str) -> Phone:
    national = _by_library(digits, region)
    if national.ok or digits.startswith("0"):
        return national
    # a French number without its plus in a list of a practice abroad
    if digits.startswith("33") and len(digits) == 11 and (phone := _international(digits)).ok:
        return phone
    return national


def _by_library(text: str, region: str | None) -> Phone:
    try:
        number = phonenumbers.parse(text, region)
    except phonenumbers.NumberParseException as error:
        too_long = error.error_type == phonenumbers.NumberParseException.TOO_LONG
        short = error.error_type in (
            phonenumbers.NumberParseException.TOO_SHORT_NSN,
            phonenumbers.NumberParseException.TOO_SHORT_AFTER_IDD,
        )
        reason = Reason.TOO_LONG if too_long else Reason.TOO_SHORT if short else Reason.NOT_ASSIGNED
        return Phone(ok=False, reason=reason)
    if phonenumbers.is_valid_number(number):
        kind = _KINDS.get(phonenumbers.number_type(number), "other")
        e164 = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
        return _usable(e164, kind, phonenumbers.region_code_for_number(number))
    match phonenumbers.is_possible_number_with_reason(number):
        case phonenumbers.ValidationResult.TOO_SHORT:
            reason = Reason.TOO_SHORT
        case phonenumbers.ValidationResult.TOO_LONG:
            reason = Reason.TOO_LONG
        case _:
            reason = Reason.NOT_ASSIGNED
    return Phone(ok=False, reason=reason)


def _usable(e164: str, kind: str, region: str | None) -> Phone:
    return Phone(ok=True, e164=e164, kind=kind, region=region, sms_capable=kind in _SMS_KINDS)


def _in_plan(region: str, number: str) -> Phone | None:
    """The national number without its zero in one region's plan, by libphonenumber's own patterns.

    Says what `phonenumbers.is_valid_number` and `number_type` say (a test holds them against each other)
    at a tenth of the time, which an import of millions of rows needs.
    """
    prefix, general, kinds, names = _plan(region)
    if general.fullmatch(number) and (found := kinds.fullmatch(number)) and found.lastindex:
        return _usable(prefix + number, names[found.lastindex - 1], region)
    return None


@functools.cache
def _plan(region: str) -> tuple[str, re.Pattern[str], re.Pattern[str], tuple[str, ...]]:
    """Prefix, all numbers of the plan, and one group for each kind of number in the order of the names."""
    metadata = phonenumbers.PhoneMetadata.metadata_for_region(region)
    assert metadata is not None
    assert metadata.country_code is not None
    assert metadata.general_desc is not None
    # in libphonenumber's order: the first that matches names the type
    described = (
        ("premium", metadata.premium_rate),
        ("toll_free", metadata.toll_free),
        ("shared_cost", metadata.shared_cost),
        ("voip", metadata.voip),
        ("other", metadata.personal_number),
        ("other", metadata.pager),
        ("other", metadata.uan),
        ("other", metadata.voicemail),
        ("landline", metadata.fixed_line),
        ("mobile", metadata.mobile),
    )
    known = [
        (kind, part.national_number_pattern) for kind, part in described if part and part.national_number_pattern
    ]
    kinds = re.compile("|".join(f"({pattern})" for _, pattern in known))
    assert kinds.groups == len(known)
    general = re.compile(metadata.general_desc.national_number_pattern or "")
    return f"+{metadata.country_code}", general, kinds, tuple(kind for kind, _ in known)


# too short for two numbers
_ONE_PHONE = re.compile(r"\+?[\d .\-()]{0,19}")
_TWO_PHONES = re.compile(r"[0-9 .\-\u00a0\u202f]+")
_HARD_SPLIT = re.compile(r"[;|\n\r\u0085\u2028\u2029]|\b(?:ou|et|or|and)\b", re.IGNORECASE)
_SOFT_SPLIT = re.compile(r"[/,]|\s-\s|\s&\s")
_NUMBER_PART = re.compile(r"[+=(\"'“]*[+(]*\d[\d .\-()/+\"'”\u00a0\u202f\u2010-\u2014]*")
# letters and what may surround them; a mask (`**`, `??`) is none of these
_PLAIN_NOTE = re.compile(r"(?:[^\W\d_]|[\s.,:()°'’-])*")


def split_phones(cell: str) -> list[Piece]:
    """The numbers of one cell in their order, with the words beside each; a number marked as not to be
    called says so. An empty cell gives an empty list."""
    if len(cell) < 20 and _ONE_PHONE.fullmatch(cell):
        cell = cell.strip()
        return [Piece(cell)] if cell else []
    pieces = []
    for part in _HARD_SPLIT.split(cell):
        pieces += [_phone_piece(text) for text in map(tidy, _soft_parts(part)) if text]
    return _join_notes(pieces)


def _soft_parts(part: str) -> list[str]:
    """`/`, `,` and ` - ` separate numbers, but also the digits of one: `06/12/34/56/78`."""
    texts = _SOFT_SPLIT.split(part)
    counts = [sum(character.isdigit() for character in text) for text in texts]
    if len(texts) > 1 and all(count == 0 or count >= 6 for count in counts) and sum(counts):
        return texts
    words = re.split(r"\s+", part.strip())
    if len(words) == 2 and all(len(word) >= 9 and word.strip("+").isdigit() for word in words):
        return words
    return _two_numbers(part) or [part]


def _two_numbers(part: str) -> list[str] | None:
    """Two full national numbers with nothing but blanks between and in them: twenty digits have one reading."""
    places = [place for place, character in enumerate(part) if character in "0123456789"]
    if len(places) != 20 or not _TWO_PHONES.fullmatch(part):
        return None
    texts = [part[: places[10]].strip(" .-"), part[places[10] :].strip(" .-")]
    return texts if all(text.startswith("0") and check_phone(text).ok for text in texts) else None


def _phone_piece(text: str) -> Piece:
    found = _NUMBER_PART.search(text)
    if not found:
        return Piece(text, do_not_use=_is_stop(text))
    before, after = text[: found.start()], text[found.end() :]
    if _is_stop(f"{before} {after}"):
        return Piece(found[0].strip(" -/("), note=tidy(f"{before} {after}"), do_not_use=True)
    beside = f"{before} {after}"
    touching = before[-1:].isalpha() or (after[:1].isalpha() and found[0][-1:].isdigit())
    if touching or not _PLAIN_NOTE.fullmatch(beside) or not _is_note(beside):
        return Piece(text)
    note = " ".join(re.findall(r"[^\W\d_]+", beside))
    return Piece(found[0].strip(" -/(,:"), note=note)


_WORD = re.compile(r"[^\W\d_xX]{2,}")
#: the second of two numbers is not known
_NO_OTHER = _words("aucun aucune neant rien none nc")
_NONE_WORDS = _NO_OTHER | _words("pas sans de d autre portable fixe mobile telephone tel numero mail email")


def _join_notes(pieces: list[Piece]) -> list[Piece]:
    """Words between two separators belong to the number before them, or else to the one after: `0612… / travail`,
    `… ; ne pas appeler`, `… - erreur`. Unknown words make it unusable, as they do without a separator."""
    joined: list[Piece] = []
    ahead: Piece | None = None
    for piece in pieces:
        if _is_wordy(piece.text):
            unclear = not piece.do_not_use and not _is_note(piece.text) and not _says_none(piece.text)
            note = Piece("", piece.text, piece.do_not_use, unclear)
            if joined:
                joined[-1] = _with_note_of(joined[-1], note)
            else:
                ahead = _with_note_of(ahead, note) if ahead else note
        else:
            joined.append(_with_note_of(piece, ahead) if ahead else piece)
            ahead = None
    return joined if joined or not ahead else [Piece(ahead.note, do_not_use=ahead.do_not_use)]


def _with_note_of(piece: Piece, other: Piece) -> Piece:
    return Piece(
        piece.text,
        f"{piece.note} {other.note}".strip(),
        piece.do_not_use or other.do_not_use,
        piece.is_unclear or other.is_unclear,
    )


def _is_wordy(text: str) -> bool:
    """Whether it is words rather than a number; `XX` masks digits."""
    return bool(_WORD.search(text)) and sum(character.isdigit() for character in text) < 6


def _says_none(text: str) -> bool:
    """`/ aucun`, `/ pas de fixe`: there is no second number, which says nothing about the first."""
    words = _plain_words(text)
    said = _NONE_WORDS.issuperset(words) and not _NO_OTHER.isdisjoint(words)
    return said or (words[:1] in (["pas"], ["sans"]) and len(words) > 1 and _NONE_WORDS.issuperset(words))


# --- email addresses --------------------------------------------------------------------------------

_MAX_LOCAL_OCTETS = 64  # RFC 5321 §4.5.3.1.1
_MAX_OCTETS = 254  # RFC 3696 erratum 1690
_PLAIN_LOCAL = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")
_NAMED = re.compile(r"([^<>@]*)<([^<>]+)>")
_APOSTROPHES = str.maketrans("\u2018\u2019\u02bc\u00b4", "''''")
_OPENING = " <\"'«\u2018\u201c="
_EDGES = " ;,.<>\"'«»\u2018\u2019\u201c\u201d="

#: RFC 2606 §3 and our own: for made-up people, never judged as a typing error
_EXAMPLE_DOMAINS = ("example.com", "example.org", "example.net", "example.fr")

_FILLER_WORDS = _words(
    "neant aucun aucune nospam noemail nomail noreply donotreply nepasrepondre pasdemail pasdemel pasdadresse "
    "pasdemailconnu sansmail sansemail sansadresse inconnu inconnue null nul nemail pasmail nonrenseigne "
    "nonconnu nonconnue nonfourni nonfournie nonprecise pasdecourriel unknown none"
)
#: fillers only where the domain is one too: `test@test.fr`, but `test@orange.fr` may be a person
_WEAK_FILLERS = _words(
    "test toto titi tata azerty qwerty abc abcd abcde a aa b mail email non no rien nc na sans vide faux bidon x "
    "fake adresse patient nom"
)

_DOMAINS = {
    name: tuple(endings.split())
    for name, endings in {
        "gmail": "com",
        "googlemail": "com",
        "orange": "fr",
        "wanadoo": "fr",
        "hotmail": "com fr be ch it es de ca nl co.uk gr se no dk",
        "outlook": "com fr be es it de pt dk",
        "yahoo": "com fr be it es de ca gr ie in se no dk ro co.uk",
        "laposte": "net",
        "icloud": "com",
        "bouygtel": "fr",
        "numericable": "fr",
        "club-internet": "fr",
        "aliceadsl": "fr",
        "libertysurf": "fr",
        "cegetel": "net",
        "protonmail": "com ch",
        "bluewin": "ch",
        "skynet": "be",
    }.items()
}
#: names too short for a guess by distance: only an ending that no registry has is taken as a typing error
_SHORT_DOMAINS = {"free": "fr", "sfr": "fr", "live": "fr", "neuf": "fr", "bbox": "fr", "aol": "com", "msn": "com"}
_FALSE_ENDINGS = _words(
    "con cmo ocm comm coom cim vom xom clm fe ft rf frr ffr ftr fre f r c co.m nett ner nte netr"
)
#: near a well-known domain and real all the same
_REAL_NEIGHBOURS = _words("ymail.com email.com mail.com hotmail.co outlook.co yahoo.fi yahoo.co.in orange.re")
_KNOWN_WRONG = {"gmail.fr": "gmail.com", "gmail.net": "gmail.com", "gmail.co": "gmail.com"}


def check_email(value: str) -> Email:
    """Judges one address without asking the network; see `Email` for what may be used."""
    text = tidy(value)
    if "<" in text and (named := _NAMED.fullmatch(text)):
        if refusal := _email_piece(text).refusal:
            return Email(ok=False, reason=refusal)
        text = named[2]
    text = text.lstrip(_OPENING).rstrip(_EDGES).removeprefix("mailto:")
    if not text.isascii():
        text = text.translate(_APOSTROPHES)
    if not text:
        return Email(ok=False, reason=Reason.EMPTY)
    if " " in text and (judged := _with_note(text)):
        return judged
    local, at, domain = text.rpartition("@")
    if not at:
        is_filler = _bare(text) in _FILLER_WORDS | _WEAK_FILLERS
        return Email(ok=False, reason=Reason.FILLER if is_filler else Reason.NO_AT)
    if "@" in local:
        return Email(ok=False, reason=Reason.SEVERAL if len(split_emails(text)) > 1 else Reason.SYNTAX)
    if not _PLAIN_LOCAL.fullmatch(local):
        return _unusual_local(local, domain)
    verdict = _domain(domain)
    if verdict.ascii is None:
        return Email(ok=False, reason=verdict.reason, suggestion=_joined(local, verdict.suggestion))
    address = f"{local}@{verdict.ascii}"
    if len(local) > _MAX_LOCAL_OCTETS or len(address) > _MAX_OCTETS:
        return Email(ok=False, reason=Reason.TOO_LONG)
    if _is_filler(local, verdict):
        return Email(ok=False, address=address, reason=Reason.FILLER)
    if verdict.suggestion:
        return Email(False, address, Reason.MISTYPED, _joined(local, verdict.suggestion))
    return Email(ok=True, address=address)


_PLAIN_EMAIL = re.compile(r"([A-Za-z0-9]+(?:[._+'-][A-Za-z0-9]+)*)@([A-Za-z0-9]+(?:[.-][A-Za-z0-9]+)+)")


def plain_email(cell: str) -> str | None:
    """The commonest cells, quickly: the address of a cell that is one plain address.

    Exactly what `check_email` says; None says nothing: ask `split_emails` and `check_email`.
    """
    found = _PLAIN_EMAIL.fullmatch(cell)
    if found is None or len(cell) > _MAX_LOCAL_OCTETS:
        return None
    local, domain = found.groups()
    verdict = _domain(domain)
    if verdict.ascii is None or verdict.suggestion or verdict.filler != "no" or _is_filler(local, verdict):
        return None
    return f"{local}@{verdict.ascii}"


#: mailboxes of machines and offices (RFC 2142), and what practices and companies call theirs
_ROLES = _words(
    "postmaster hostmaster webmaster abuse noreply donotreply mailerdaemon root admin administrateur "
    "administration contact contacts info infos information informations accueil reception secretariat secretaire "
    "standard direction directeur commercial commerciale compta comptabilite facturation rh drh recrutement "
    "juridique communication service services servicepatient support sav help helpdesk office hello mairie "
    "commune ecole college lycee creche association cabinet cabinetmedical medecin docteur infirmier infirmiere "
    "idel kine pharmacie laboratoire labo clinique hopital ehpad residence tutelle tutelles curatelle mandataire "
    "equipe dpo rgpd privacy security patients rdv rendezvous agence boutique"
)
_ROLE_START = re.compile(
    r"(?:cabinet|secretariat|accueil|mairie|pharmacie|clinique|hopital|ehpad|labo|laboratoire)[._+-]",
    re.IGNORECASE,
)


def is_role(address: str) -> bool:
    """Whether a mailbox is an office's or a company's by its name, so that others than the patient read it."""
    local = address.partition("@")[0]
    return _bare(local) in _ROLES or _ROLE_START.match(local) is not None


def _with_note(text: str) -> Email | None:
    pieces = split_emails(text)
    if len(pieces) > 1:
        return Email(ok=False, reason=Reason.SEVERAL)
    if pieces[0].refusal:
        return Email(ok=False, reason=pieces[0].refusal)
    return check_email(pieces[0].text) if pieces[0].text != text else None


def _joined(local: str, domain: str | None) -> str | None:
    return f"{local}@{domain}" if domain else None


def _unusual_local(local: str, domain: str) -> Email:
    """A local part that is not plain ASCII: an accent (offered without it) or an error."""
    try:
        valid = validate_email(f"{local}@{domain}", check_deliverability=False, allow_smtputf8=True, strict=True)
    except EmailNotValidError:
        return Email(ok=False, reason=Reason.SYNTAX, suggestion=_without_blanks(f"{local}@{domain}"))
    local = unaccented(valid.local_part)
    if not local.isascii():
        return Email(False, valid.normalized, Reason.ACCENT)
    plain = check_email(f"{local}@{valid.ascii_domain}")
    return Email(False, valid.normalized, Reason.ACCENT, plain.address if plain.ok else plain.suggestion)


def _without_blanks(text: str) -> str | None:
    """Blanks beside @ or a dot are slips (`jean @example.fr`); between words they may stand for anything."""
    closed = re.sub(r" *([@.]) *", r"\1", text)
    return check_email(closed).address if closed != text and " " not in closed else None


@dataclass(frozen=True, slots=True)
class _Domain:
    ascii: str | None
    reason: Reason | None = None
    suggestion: str | None = None
    filler: Literal["no", "weak", "strong"] = "no"
    example: bool = False


@functools.lru_cache(maxsize=65536)
def _domain(domain: str) -> _Domain:
    """Judges the part after @ once: lists repeat few domains (18 µs become 0.3 µs)."""
    try:
        valid = validate_email(f"a@{domain}", check_deliverability=False)
    except EmailNotValidError:
        if "," in domain:
            repaired = _domain(domain.replace(",", "."))
            return _Domain(None, Reason.COMMA_FOR_DOT, repaired.suggestion or repaired.ascii)
        closed = re.sub(r" *\. *", ".", domain.strip())
        return _Domain(None, Reason.DOMAIN, None if closed == domain else _domain(closed).ascii)
    name = valid.ascii_domain.lower()
    ending = name.rpartition(".")[2]
    if (len(ending) == 2 and ending not in _countries()) or ending in _NO_ENDINGS:
        meant = _probably_meant(name) or _with_ending(name, ending)
        return _Domain(name, suggestion=meant) if meant else _Domain(None, Reason.DOMAIN)
    if name.endswith(_EXAMPLE_DOMAINS) and any(name == e or name.endswith("." + e) for e in _EXAMPLE_DOMAINS):
        return _Domain(name, example=True)
    label = _bare(name.partition(".")[0])
    if label in _FILLER_WORDS or re.fullmatch(r"x{2,}", label):
        return _Domain(name, filler="strong")
    return _Domain(name, suggestion=_probably_meant(name), filler="weak" if label in _WEAK_FILLERS else "no")


@functools.cache
def _countries() -> frozenset[str]:
    """Endings of two letters that exist: country codes (ISO 3166-1), and the six that are none."""
    without_numbers = _words("aq bv gs hm pn tf")
    return (
        frozenset(region.lower() for region in phonenumbers.SUPPORTED_REGIONS)
        | without_numbers
        | _words("uk eu su")
    )


#: endings of three letters and more that no registry has: reserved ones (RFC 2606 §2) and common slips
_MEANT_ENDINGS = {
    "com": "con cmo ocm comm coom cim vom xom clm cpm", "fr": "fe ft rf frr ffr ftr fre",
    "net": "nett ner nte nrt", "org": "ogr orgg rog",
}  # fmt: skip
_NO_ENDINGS = _words("example " + " ".join(_MEANT_ENDINGS.values()))


def _with_ending(domain: str, ending: str) -> str | None:
    """The domain with the ending that was probably meant."""
    for meant, slips in _MEANT_ENDINGS.items():
        if ending in slips.split():
            return domain.removesuffix(ending) + meant
    return None


_NOT_LETTERS = str.maketrans("", "", "0123456789!#$%&'*+-./=?^_`{|}~ ")


@functools.lru_cache(maxsize=8)  # each address asks twice: is it a filler, is it an office's
def _bare(word: str) -> str:
    return unaccented(word).casefold().translate(_NOT_LETTERS)


def _is_filler(local: str, domain: _Domain) -> bool:
    if domain.filler == "strong":
        return True
    bare = _bare(local)
    if bare in _FILLER_WORDS or (len(bare) > 2 and bare == "x" * len(bare)):
        return True
    return domain.filler == "weak" and bare in _WEAK_FILLERS


def _probably_meant(domain: str) -> str | None:
    """The well-known domain that is one typing error away, or None."""
    if domain in _REAL_NEIGHBOURS:
        return None
    if domain in _KNOWN_WRONG:
        return _KNOWN_WRONG[domain]
    name, _, ending = domain.partition(".")
    if name in _SHORT_DOMAINS:
        return f"{name}.{_SHORT_DOMAINS[name]}" if ending in _FALSE_ENDINGS else None
    if ending in _DOMAINS.get(name, ()):
        return None
    for known in _known_domains():
        if _one_apart(domain, known):
            return known
    return None


def is_well_known(domain: str) -> bool:
    """Whether a domain is one of the large mailbox operators', as it is rightly written."""
    name, _, ending = domain.partition(".")
    return ending in _DOMAINS.get(name, ()) or _SHORT_DOMAINS.get(name) == ending


def _known_domains() -> Iterator[str]:
    for name, endings in _DOMAINS.items():
        for ending in endings:
            yield f"{name}.{ending}"


def _one_apart(a: str, b: str) -> bool:
    """Whether one letter put in, left out, changed, or two neighbours swapped make `a` into `b`."""
    if abs(len(a) - len(b)) > 1 or a == b:
        return False
    start = 0
    while start < min(len(a), len(b)) and a[start] == b[start]:
        start += 1
    rest_a, rest_b = a[start:], b[start:]
    if len(a) == len(b):
        swapped = rest_a[:2] == rest_b[1::-1] and rest_a[2:] == rest_b[2:]
        return rest_a[1:] == rest_b[1:] or (len(rest_a) > 1 and swapped)
    return rest_a[1:] == rest_b if len(a) > len(b) else rest_a == rest_b[1:]


_ONE_EMAIL = re.compile(r"[^\s@;,/|<]+@[^\s@;,/|]+[;,]*")
_EMAIL_SPLIT = re.compile(r"[;,/|\n\r\u0085\u2028\u2029]|\s(?:ou|et|or|and)\s|\s&\s", re.IGNORECASE)


def split_emails(cell: str) -> list[Piece]:
    """The addresses of one cell in their order, with the words beside each.

    Split only where every part has its own @ or is a known note: in `a@orange,fr` or `a@gmail;com` the cell
    stays whole, for half of it would be somebody else's address.
    """
    text = tidy(cell) if "\n" not in cell and "\r" not in cell else cell.strip()
    if not text:
        return []
    if _ONE_EMAIL.fullmatch(text):
        return [Piece(text)]
    parts = [part for part in (tidy(part) for part in _EMAIL_SPLIT.split(text)) if part.strip(_EDGES)]
    if len(parts) == 1 and " " in parts[0] and text.count("@") > 1:
        words = parts[0].split()
        parts = words if all(word.count("@") == 1 for word in words) else parts
    pieces = [_email_piece(part) for part in parts]
    whole = all("@" in piece.text or piece.do_not_use or _is_note(piece.text) for piece in pieces)
    if not whole or not any("@" in piece.text for piece in pieces):
        return [Piece(tidy(text))]
    return _join_email_notes(pieces)


def _email_piece(part: str) -> Piece:
    if named := _NAMED.fullmatch(part):
        name, address = named.groups()
        return Piece(part, _note_in_name(name, address), do_not_use=_is_stop(name))
    if "@" not in part or " " not in part:
        return Piece(part, do_not_use="@" not in part and _is_stop(part))
    words = part.split()
    addresses = [word for word in words if "@" in word]
    note = " ".join(word for word in words if "@" not in word)
    if len(addresses) == 1 and _is_stop(note):
        return Piece(addresses[0], note, do_not_use=True)
    if (
        len(addresses) == 1
        and re.search(r"[^\W\d_]", note)
        and _is_note(note)
        and not any(c.isdigit() for c in note)
    ):
        return Piece(addresses[0].strip("():"), " ".join(re.findall(r"[^\W\d_]+", note)))
    return Piece(part)


#: in "grand-père" and "belle-sœur", but family names where no relative stands beside them
_HALF_RELATIVES = _words("beau belle grand")


def _note_in_name(name: str, address: str) -> str:
    """The words before `<address>` that say whose it is. All others are names there, and so are the family names
    Voisin and Cousin in `Jean Voisin <jean.voisin@…>`."""
    words = _plain_words(name)
    local = address.partition("@")[0]
    names = {*_plain_words(local), *(word for word in words if len(word) >= 6 and word in _bare(local))}
    said = [word for word in words if word in _PEOPLE | _PERSONAL and (len(words) == 1 or word not in names)]
    return "" if _HALF_RELATIVES.issuperset(said) else " ".join(said)


def _join_email_notes(pieces: list[Piece]) -> list[Piece]:
    """Words between two separators belong to the address before them, or else to the first one."""
    joined: list[Piece] = []
    ahead = Piece("")
    for piece in pieces:
        if "@" in piece.text:
            joined.append(piece if joined else _with_note_of(piece, ahead))
        elif joined:
            joined[-1] = _with_note_of(joined[-1], Piece("", piece.text, piece.do_not_use))
        else:
            ahead = _with_note_of(ahead, Piece("", piece.text, piece.do_not_use))
    return joined
