"""What every list format yields: raw rows under columns whose meaning is known. No database, no judgement."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, field
from enum import StrEnum

from notifier.addresses import check_email, check_phone, unaccented
from notifier.errors import ListError


class Column(StrEnum):
    """What a column of a list means."""

    PATIENT_ID = "patient_id"
    LAST_NAME = "last_name"
    BIRTH_NAME = "birth_name"
    USED_NAME = "used_name"
    FIRST_NAME = "first_name"
    BIRTH_DATE = "birth_date"
    EMAIL = "email"
    PHONE = "phone"
    ADDRESS = "address"
    POSTAL_CODE = "postal_code"
    TOWN = "town"
    COUNTRY = "country"
    LANGUAGE = "language"
    DECEASED = "deceased"
    #: free text: only whether there is one is ever handed on
    COMMENT = "comment"
    COMMENT_SENSITIVE = "comment_sensitive"
    #: RPPS number or own reference of the responsible doctor
    DOCTOR = "doctor"
    #: whether this person's data was in the breach
    AFFECTED = "affected"


#: several columns of these are several values, as long as their names tell them apart
SEVERAL = frozenset({Column.EMAIL, Column.PHONE, Column.ADDRESS, Column.COMMENT})
CONTACTS = (Column.EMAIL, Column.PHONE)
NAMES = frozenset({Column.PATIENT_ID, Column.LAST_NAME, Column.BIRTH_NAME, Column.USED_NAME, Column.FIRST_NAME})

#: names that lists use, by meaning; of those in one group a list may have one, groups are parted by `|`
_NAMES: dict[Column, str] = {
    Column.PATIENT_ID: """
        id, id patient, patient id, identifiant, identifiant patient, numero patient, n patient, no
        patient, num patient, code patient, ref patient, reference patient, numero dossier, n
        dossier, dossier, ipp, patient number, patient no, patient ref, record number, mrn
    """,
    Column.LAST_NAME: """
        nom, nom de famille, nom patient, nom du patient, last name, surname, family name, lastname,
        nom prenom, nom et prenom, nom complet, full name, name, patient, patient name
    """,
    Column.BIRTH_NAME: """
        nom de naissance, nom naissance, nom de jeune fille, nom jeune fille, birth name, maiden
        name
    """,
    Column.USED_NAME: """
        nom d usage, nom usage, nom usuel, nom marital, nom d epouse, used name, usual name, married
        name
    """,
    Column.FIRST_NAME: """
        prenom, prenoms, prenom patient, prenom du patient, first name, given name, forename,
        firstname
    """,
    Column.BIRTH_DATE: """
        date de naissance, date naissance, naissance, ne le, nee le, ne e le, ddn, dnaiss, date
        naiss, datenais, birth date, birthdate, date of birth, dob, birthday
    """,
    Column.EMAIL: """
        email, e mail, mail, courriel, adresse email, adresse e mail, adresse mail, adresse
        electronique, adresse courriel, email address, e mail address, mel, email patient, mail
        patient | email perso, email personnel, mail perso, personal email | email pro, email
        professionnel, mail pro, work email | email secondaire, autre email, mail secondaire,
        secondary email, other email | e mail
        du patient, email du patient, mail du patient, e mail patient, courriel patient, courriel du
        patient, adresse email du patient, adresse mail du patient, adresse email patient, adresse
        mail patient, patient email | adresse de messagerie, adresse messagerie, messagerie, adresse
        de messagerie electronique, messagerie electronique | e mail perso, e mail personnel,
        courriel perso, courriel personnel, adresse mail perso, adresse email perso | email
        principal, e mail principal, mail principal, courriel principal, primary email | e mail
        secondaire, courriel secondaire | email mere | email pere | email parent, email parents, mail
        parent, mail parents, courriel parent, courriel parents | email representant legal, email
        tuteur
    """,
    Column.PHONE: """
        telephone, tel, phone, phone number, numero de telephone, numero telephone, n telephone, no
        telephone, telephone patient, tel patient, telephone number, tph | mobile, portable,
        telephone mobile, telephone portable, tel mobile, tel portable, tel port, tel mob, gsm,
        numero portable, numero mobile, numero de portable, numero de mobile, numero de telephone
        portable, mobile phone, mobile number, cell, cell phone, cellphone, sms | telephone fixe,
        tel fixe, fixe, telephone domicile, tel domicile, domicile, tel dom, home phone, landline,
        phone home | telephone travail, tel travail, telephone bureau, tel bureau, telephone
        professionnel, telephone pro, tel pro, work phone, office phone, phone work | autre
        telephone, autre tel, telephone secondaire, other phone | tel perso,
        telephone perso, telephone personnel, tel personnel, numero perso, personal phone | portable
        perso, mobile perso, portable personnel, mobile personnel, tel portable perso, tel mobile
        perso, telephone portable perso, telephone mobile perso, personal mobile | mobile patient,
        portable patient, mobile du patient, portable du patient, tel portable patient, tel mobile
        patient, patient mobile | telephone du patient, tel du patient, numero patient telephone,
        patient phone | tel principal, telephone principal, numero principal, primary phone, main
        phone | portable principal, mobile principal | portable secondaire, mobile secondaire, autre
        portable, autre mobile | portable pro, portable professionnel, mobile pro, mobile
        professionnel, work mobile | tel maison, telephone maison, tel prive, telephone prive | tel
        contact, telephone contact, contact telephone, contact tel | numero de tel, num tel, num
        telephone, no tel, n tel, numero tel | tel mere, telephone mere, portable mere, mobile mere |
        tel pere, telephone pere, portable pere, mobile pere | tel parent, tel parents, telephone
        parent, telephone parents, portable parent, portable parents, tel representant legal,
        telephone representant legal | tel tuteur, telephone tuteur, portable tuteur
    """,
    Column.ADDRESS: """
        adresse, adresse postale, adresse complete, rue, voie, address, street, address line, street
        address, ligne adresse, adresse ligne | complement, complement adresse, complement d
        adresse, adresse complement, adresse suite, address complement
    """,
    Column.POSTAL_CODE: "code postal, cp, codepostal, postal code, postcode, zip, zip code",
    Column.TOWN: "ville, commune, localite, town, city",
    Column.COUNTRY: "pays, country",
    Column.LANGUAGE: """
        langue, langue parlee, langue preferee, language, lang, preferred language
    """,
    Column.DECEASED: """
        decede, decedee, decede e, deces, date de deces, date deces, dcd, deceased, dead, date of
        death, death date
    """,
    Column.COMMENT: """
        commentaire, commentaires, remarque, remarques, observation, observations, note, notes,
        comment, comments, remark, remarks, commentaire libre, commentaire present, comment present,
        has comment, memo, bloc notes
    """,
    Column.COMMENT_SENSITIVE: """
        commentaire sensible, sensible, comment sensitive, sensitive comment, sensitive, remarque
        sensible, note sensible
    """,
    Column.DOCTOR: """
        medecin, rpps, numero rpps, n rpps, no rpps, id medecin, medecin id, rpps
        medecin, medecin rpps, praticien, reference medecin, doctor, doctor id, doctor reference,
        doctor rpps, practitioner
    """,
    Column.AFFECTED: """
        concerne, concernee, concerne e, impacte, impactee, touche, touchee, affected, impacted
    """,
}


@dataclass(frozen=True, slots=True)
class Meaning:
    """A column's meaning; two columns with the same meaning cannot both be read."""

    column: Column
    #: which of several ("mobile" and "home" are two groups, "phone 2" is the second)
    group: int
    number: str


class Doubt(StrEnum):
    """What a reader had to guess about a row."""

    #: a quote is never closed: it was taken as a character
    UNBALANCED_QUOTE = "unbalanced_quote"
    #: cells beyond the header: a delimiter inside a cell may have shifted the others
    MORE_CELLS = "more_cells_than_headers"
    #: the header stands in the table once more, as at a page break
    HEADER_AGAIN = "header_again"


#: what people read: (French, English)
WORDS: dict[Doubt, tuple[str, str]] = {
    Doubt.UNBALANCED_QUOTE: ("Un guillemet n'est jamais fermé.", "A quote is never closed."),
    Doubt.MORE_CELLS: (
        "Plus de cases que d'en-têtes : un séparateur dans une case ?",
        "More cells than headers: a delimiter inside a cell?",
    ),
    Doubt.HEADER_AGAIN: ("L'en-tête est répété.", "The header again."),
}


@dataclass(slots=True)
class RawRow:
    """One data row as text. `number` counts as a spreadsheet does: the first record of the file is 1."""

    number: int
    #: only cells that hold something
    cells: dict[Column, list[str]]
    #: what the reader had to guess about this row
    doubts: list[Doubt] = field(default_factory=list)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "", unaccented(name).casefold())


@functools.cache
def _known() -> dict[str, tuple[Column, int]]:
    known: dict[str, tuple[Column, int]] = {}
    for column, names in _NAMES.items():
        for group, part in enumerate(names.split("|")):
            known |= {_plain(name): (column, group) for name in part.split(",")}
    return known


def recognise(header: str) -> Meaning | None:
    """The meaning of a column by its name, whatever case, accents, blanks and punctuation; None if unknown."""
    plain = _plain(header)
    if found := _known().get(plain) or _known().get(_plain(re.sub(r"\(.*?\)", "", header))):
        return Meaning(*found, number="")
    numbered = re.fullmatch(r"(.*?[a-z])0*([1-9]\d?)", plain) or re.fullmatch(r"(.*?)([1-9])", plain)
    if numbered and (found := _known().get(numbered[1])) and found[0] in SEVERAL:
        return Meaning(*found, number=numbered[2])
    return None


def layout(header: list[str]) -> dict[int, Column]:
    """Which cell of a row is what, from the header row.

    Raises ListError if two columns mean the same single thing, or if no column holds a contact.
    """
    columns: dict[int, Column] = {}
    seen: dict[Meaning, str] = {}
    for index, name in enumerate(header):
        meaning = recognise(name)
        if meaning is None:
            continue
        if meaning in seen and meaning.column is not Column.COMMENT:
            advice = ", or number them (for instance 'email 1' and 'email 2')" if meaning.column in SEVERAL else ""
            raise ListError(
                f"Two columns mean the same thing ({meaning.column}): {seen[meaning]!r} and {name.strip()!r}. "
                f"Keep one of them{advice}."
            )
        seen[meaning] = name.strip()
        columns[index] = meaning.column
    if not any(contact in columns.values() for contact in CONTACTS):
        read = ", ".join(repr(name.strip()[:40]) for name in header[:40] if name.strip()) or "none"
        raise ListError(
            f"No column with contacts. Columns read: {read}. Name one of them for instance "
            "'email', 'courriel', 'adresse e-mail', 'telephone', 'portable', 'mobile' or 'phone'."
        )
    return columns


_OF_GUARDIAN = re.compile(r"(mere|pere|parents?|representantlegal|tuteur)\d*$")


def guardian(header: str) -> str | None:
    """Who the contacts of this column belong to, as a note: a parent or guardian; None for the patient."""
    found = _OF_GUARDIAN.search(_plain(header))
    return None if found is None else "parent"


def looks_like_contact(cell: str) -> bool:
    """Whether a cell of any column holds an email address or a telephone number."""
    return check_email(cell).ok if "@" in cell else check_phone(cell).ok
