"""What the columns of a list mean, by their names and by what stands in them. Pure.

A column that could be two things becomes a `Question` and is never guessed; a mapping answers it.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from notifier.addresses import check_email, check_phone, unaccented, visible
from notifier.importers.refusals import Refusal, refused


class Column(StrEnum):
    """What a column of a list means."""

    PATIENT_ID = "patient_id"
    LAST_NAME = "last_name"
    BIRTH_NAME = "birth_name"
    USED_NAME = "used_name"
    FIRST_NAME = "first_name"
    BIRTH_DATE = "birth_date"
    #: INS or NIR: only its keyed hash is ever kept, to know a person again
    NATIONAL_ID = "national_id"
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
        dossier, dossier, ipp, patient number, patient no, patient ref, record number, mrn, numero de
        dossier, num dossier, no dossier, code dossier, id dossier, identifiant dossier, uuid,
        identifiant externe, numero interne, patient uuid, n ipp, numero ipp
    """,
    Column.LAST_NAME: """
        nom, nom de famille, nom patient, nom du patient, last name, surname, family name, lastname,
        nom prenom, nom et prenom, nom complet, full name, name, patient, patient name, prenom nom,
        prenom et nom, identite, nom prenoms, nom et prenoms
    """,
    Column.BIRTH_NAME: """
        nom de naissance, nom naissance, nom de jeune fille, nom jeune fille, birth name, maiden
        name, nom patronymique, nom de famille naissance, name at birth
    """,
    Column.USED_NAME: """
        nom d usage, nom usage, nom usuel, nom marital, nom d epouse, used name, usual name, married
        name, nom d utilisation, nom utilise
    """,
    Column.FIRST_NAME: """
        prenom, prenoms, prenom patient, prenom du patient, first name, given name, forename,
        firstname, given names, first names | prenom usuel, prenom utilise | premier prenom, premier prenom de
        naissance
    """,
    Column.BIRTH_DATE: """
        date de naissance, date naissance, naissance, ne le, nee le, ne e le, ddn, dnaiss, date
        naiss, datenais, birth date, birthdate, date of birth, dob, birthday, date de naiss, d naissance,
        date nais, jour de naissance
    """,
    Column.NATIONAL_ID: """
        ins, matricule ins, numero ins, n ins, identite nationale de sante, ins nir, nir, numero nir, numero de
        securite sociale, numero securite sociale, n securite sociale, no securite sociale, securite
        sociale, n secu, no secu, num secu, numero secu, numero de secu, nss, n ss, no ss, insee, numero insee,
        national id, social security number, ssn, nhs number
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
    Column.POSTAL_CODE: "code postal, cp, codepostal, postal code, postcode, zip, zip code, code post, c postal",
    Column.TOWN: "ville, commune, localite, town, city, ville de residence, commune de residence",
    Column.COUNTRY: "pays, country, pays de residence",
    Column.LANGUAGE: """
        langue, langue parlee, langue preferee, language, lang, preferred language
    """,
    Column.DECEASED: """
        decede, decedee, decede e, deces, date de deces, date deces, dcd, deceased, dead, date of
        death, death date, statut vital, est decede, patient decede, is deceased
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
        rpps, numero rpps, n rpps, no rpps, rpps medecin, medecin rpps, doctor rpps, rpps praticien,
        numero rpps du medecin | medecin, id medecin, medecin id, praticien, reference medecin, doctor,
        doctor id, doctor reference, practitioner, medecin responsable, nom medecin, nom du medecin,
        code medecin, code praticien, id praticien, nom praticien, nom du praticien, practitioner id
    """,
    Column.AFFECTED: """
        concerne, concernee, concerne e, impacte, impactee, touche, touchee, affected, impacted
    """,
}

#: names that mean one thing in one list and another in the next
_TWO_THINGS: dict[tuple[Column, ...], str] = {
    (Column.PHONE, Column.EMAIL): """
        contact, contacts, contact patient, contact du patient, coordonnees, coordonnees patient, telephone email,
        email telephone, tel mail, mail tel, tel email, email tel, telephone mail, moyen de contact, contact
        details
    """,
    (Column.PATIENT_ID, Column.PHONE): "numero, num, numeros, number",
    (Column.PATIENT_ID, Column.POSTAL_CODE): "code",
    (Column.PATIENT_ID, Column.DOCTOR): "reference, ref, identifiant medecin patient",
}
#: the answer of a mapping for a column that is not to be read
IGNORE = "ignore"


@dataclass(frozen=True, slots=True)
class Meaning:
    """A column's meaning; two columns with the same meaning cannot both be read."""

    column: Column
    #: which of several ("mobile" and "home" are two groups, "phone 2" is the second)
    group: int
    number: str


@dataclass(frozen=True, slots=True)
class Header:
    """One column of a list: its name, and what it was read as."""

    #: what a mapping names it by: the name, or with its place where two are equal or there is none
    key: str
    name: str
    #: None: not read
    column: Column | None
    #: not empty: it could be any of these, and a mapping must say which
    could_be: tuple[Column, ...] = ()


@dataclass(frozen=True, slots=True)
class Question:
    """What a person must say before a list can be read."""

    #: the key of a header, or "sheet"
    subject: str
    #: answers that are understood
    options: tuple[str, ...]
    french: str
    english: str


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "", unaccented(name).casefold())


#: words that change nothing about what a column holds
_LINKS = frozenset({"du", "de", "des", "d", "le", "la", "les", "l", "the", "of", "s"})
_PATIENT = frozenset({"patient", "patiente", "patients"})


def _spellings(name: str) -> Iterator[str]:
    """As written, without links, without naming the patient."""
    words = re.findall(r"[a-z0-9]+", unaccented(name).casefold())
    yield "".join(words)
    linked = [word for word in words if word not in _LINKS]
    yield "".join(linked)
    yield "".join(word for word in linked if word not in _PATIENT)


@functools.cache
def _known() -> dict[str, tuple[Column, int]]:
    known: dict[str, tuple[Column, int]] = {}
    for column, names in _NAMES.items():
        for group, part in enumerate(names.split("|")):
            known |= {_plain(name): (column, group) for name in part.split(",")}
    return known


@functools.cache
def _unclear() -> dict[str, tuple[Column, ...]]:
    return {_plain(name): columns for columns, names in _TWO_THINGS.items() for name in names.split(",")}


@functools.lru_cache(maxsize=4096)
def recognise(header: str) -> Meaning | None:
    """The meaning of a column by its name, whatever case, accents, blanks and punctuation; None if unknown."""
    if len(header) > 200:
        return None
    known = _known()
    short = re.sub(r"\(.*?\)", "", header)
    spellings = list(dict.fromkeys([*_spellings(header), *_spellings(short)]))
    for plain in spellings:
        if found := known.get(plain):
            return Meaning(*found, number="")
    for plain in spellings:
        numbered = re.fullmatch(r"(.*?[a-z])0*([1-9]\d?)", plain) or re.fullmatch(r"(.*?)([1-9])", plain)
        if numbered and (found := known.get(numbered[1])) and found[0] in SEVERAL:
            return Meaning(*found, number=numbered[2])
    return None


def unclear(header: str) -> tuple[Column, ...]:
    """What a column of this name could be, if that is more than one thing."""
    return _unclear().get(_plain(header[:200]), ())


_OF_GUARDIAN = re.compile(r"(mere|pere|parents?|representantlegal|tuteur)\d*$")


def guardian(header: str) -> str | None:
    """Who the contacts of this column belong to, as a note: a parent or guardian; None for the patient."""
    found = _OF_GUARDIAN.search(_plain(header))
    return None if found is None else "parent"


def looks_like_contact(cell: str) -> bool:
    """Whether a cell of any column holds an email address or a telephone number."""
    return check_email(cell).ok if "@" in cell else check_phone(cell).ok


# --- a whole header ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Layout:
    """What each column of a list is, and what has to be asked."""

    headers: tuple[Header, ...]
    questions: tuple[Question, ...]
    #: names in the mapping that the file does not have
    missing: tuple[str, ...]

    @property
    def by_index(self) -> dict[int, Column]:
        return {index: header.column for index, header in enumerate(self.headers) if header.column is not None}

    def require_contacts(self) -> None:
        """Raises ListError if no column holds a contact and none is asked about."""
        known = {column for header in self.headers for column in (header.column, *header.could_be)}
        if known.isdisjoint(CONTACTS):
            raise refused(Refusal.NO_CONTACTS, names=[header.key for header in self.headers])


def layout(names: Sequence[str], mapping: Mapping[str, str] | None, samples: Sequence[Sequence[str]]) -> Layout:
    """What each column is: by the mapping, else by its name, questioned by the cells of the first rows.

    Where no column is one of contacts, those that are not read are asked about: a list without contacts reaches
    nobody. Raises ListError for a mapping that names no known meaning, or one meaning for two columns, and where
    no column is left to be asked about.
    """
    wanted, missing = _answers(names, mapping or {})
    headers = [
        _mapped(key, name, wanted[index]) if index in wanted else _by_name(key, name)
        for index, (key, name) in enumerate(zip(_keys(names), map(visible, names), strict=True))
    ]
    own = [index for index in range(len(headers)) if index not in wanted]
    for index in own:
        headers[index] = _by_cells(headers[index], [row[index] for row in samples if index < len(row)])
    given = _given_once(headers, wanted)
    _ask_about_doubles(headers, own, given)
    asked = _ask_for_contacts(headers, own, samples)
    questions = [_question(header, index in asked) for index, header in enumerate(headers) if header.could_be]
    return Layout(tuple(headers), tuple(questions), missing)


def _ask_for_contacts(headers: list[Header], own: Sequence[int], samples: Sequence[Sequence[str]]) -> set[int]:
    """Which columns are asked about because none is one of contacts: those with contacts in their first cells,
    else all that are not read and hold anything. Raises ListError if there is none."""
    known = {column for header in headers for column in (header.column, *header.could_be)}
    if not known.isdisjoint(CONTACTS):
        return set()
    cells = {
        index: [row[index] for row in samples if index < len(row) and visible(row[index])]
        for index in own
        if headers[index].column is None and not headers[index].could_be
    }
    like = {index for index, values in cells.items() if any(map(looks_like_contact, values))}
    asked = like or {index for index, values in cells.items() if values or (headers[index].name and not samples)}
    for index in asked:
        headers[index] = replace(headers[index], could_be=CONTACTS)
    return asked


def _keys(names: Sequence[str]) -> list[str]:
    keys: list[str] = []
    for number, name in enumerate(map(visible, names), start=1):
        key = f"{name} (column {number})".strip() if not name or name in keys else name
        keys.append(key)
    return keys


def _answers(names: Sequence[str], mapping: Mapping[str, str]) -> tuple[dict[int, Column | None], tuple[str, ...]]:
    """The mapping by column number; its names are compared exactly, then without case and accents."""
    keys = _keys(names)
    folded: dict[str, int] = {}
    for index, key in enumerate(keys):
        folded.setdefault(_plain(key) or key, index)
    wanted: dict[int, Column | None] = {}
    missing: list[str] = []
    for name, value in mapping.items():
        name = visible(name)
        place = keys.index(name) if name in keys else folded.get(_plain(name) or name)
        if place is None:
            missing.append(name)
        else:
            wanted[place] = _meaning_of(name, value)
    return wanted, tuple(missing)


def _meaning_of(name: str, value: str) -> Column | None:
    if value in ("", IGNORE):
        return None
    try:
        return Column(value)
    except ValueError:
        allowed = ", ".join([*Column, IGNORE])
        raise refused(Refusal.UNKNOWN_MEANING, name=name, meaning=value, allowed=(allowed, allowed)) from None


def _mapped(key: str, name: str, column: Column | None) -> Header:
    return Header(key, name, column)


def _by_name(key: str, name: str) -> Header:
    if (meaning := recognise(name)) is not None:
        return Header(key, name, meaning.column)
    return Header(key, name, None, unclear(name))


#: cells of this many rows at least must contradict a name
_CELLS_THAT_TELL = 3


def _by_cells(header: Header, cells: Sequence[str]) -> Header:
    """Asked about, if most cells hold what the name does not say: addresses in a column of telephone numbers."""
    cells = [cell for cell in map(visible, cells) if cell]
    if len(cells) < _CELLS_THAT_TELL or header.column is None:
        if header.column is None and not header.could_be and _is_status(header.name, cells):
            return replace(header, could_be=(Column.DECEASED, Column.AFFECTED))
        return header
    emails = sum("@" in cell and check_email(cell).ok for cell in cells)
    if header.column is not Column.EMAIL and header.column is not Column.COMMENT and emails * 2 > len(cells):
        return Header(header.key, header.name, None, (Column.EMAIL, header.column))
    if (
        header.column is Column.EMAIL
        and not emails
        and sum(check_phone(cell).ok for cell in cells) * 2 > len(cells)
    ):
        return Header(header.key, header.name, None, (Column.PHONE, Column.EMAIL))
    return header


_STATUS = frozenset({"statut", "status", "statutpatient", "etat", "etatpatient", "situation", "patientstatus"})


def _is_status(name: str, cells: Sequence[str]) -> bool:
    """Whether a column of states says of somebody that they have died."""
    return _plain(name) in _STATUS and any(
        re.match(r"(decede|dcd|deceased|dead)", unaccented(cell).casefold()) for cell in cells
    )


def _given_once(headers: Sequence[Header], wanted: Mapping[int, Column | None]) -> frozenset[Column]:
    """Meanings with one value that the mapping gives. Raises ListError if it gives one of them twice."""
    given: dict[Column, str] = {}
    for index, column in wanted.items():
        if column is None or column in SEVERAL or column is Column.DOCTOR:
            continue
        if column in given:
            raise refused(
                Refusal.MEANING_TWICE,
                meaning=str(column),
                first=given[column],
                second=headers[index].key,
                ignore=IGNORE,
            )
        given[column] = headers[index].key
    return frozenset(given)


def _ask_about_doubles(headers: list[Header], own: Sequence[int], given: frozenset[Column]) -> None:
    """Columns of one meaning are all asked about, unless the mapping told of each."""
    seen: dict[Meaning, int] = {}
    for index in own:
        meaning, column = recognise(headers[index].name), headers[index].column
        if meaning is None or column is None or column is Column.COMMENT:
            continue
        first = seen.setdefault(meaning, index)
        if first != index or column in given:
            for double in {first, index}:
                headers[double] = replace(headers[double], column=None, could_be=(column,))


def _question(header: Header, is_for_contacts: bool) -> Question:
    options = (*map(str, header.could_be), IGNORE)
    if is_for_contacts:
        return Question(
            header.key,
            options,
            f"Aucune colonne de contacts n'a été reconnue. La colonne « {header.key[:60]} » contient-elle des "
            "adresses e-mail (email) ou des téléphones (phone) ?",
            f"No column is known as one of contacts. Does the column {header.key[:60]!r} hold email addresses "
            "(email) or telephone numbers (phone)?",
        )
    if len(header.could_be) == 1:
        column = header.could_be[0]
        advice = " or number them (for instance 'email 1' and 'email 2')" if column in SEVERAL else ""
        return Question(
            header.key,
            options,
            f"Deux colonnes veulent dire la même chose ({column}), l'une est « {header.key[:60]} » : la lire ?",
            f"Two columns mean the same thing ({column}), one of them is {header.key[:60]!r}: is it to be read? "
            f"Keep one of them{advice}.",
        )
    either = [str(column) for column in header.could_be]
    return Question(
        header.key,
        options,
        f"La colonne « {header.key[:60]} » peut être : {' ou '.join(either)}. Que contient-elle ?",
        f"The column {header.key[:60]!r} could be: {' or '.join(either)}. What does it hold?",
    )
