"""Made-up incidents: an incident, doctors, their lists as messy as real exports, and the truth about everyone.

The truth comes from how the people were made, never from reading the lists back, and shares no code with the
product's import. Everybody is fictitious: mobiles of Arcep's block 06 39 98 xx xx and landlines of its five
fixed blocks kept for fiction, email under example.com, .org, .net and .fr (RFC 2606 §3).
The kinds of mess are those of exports from practice software: delimiters, encodings, title and totals lines,
spellings of numbers, fillers, shared mailboxes, the same person twice.
"""

from __future__ import annotations

import csv
import io
import json
import random
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from notifier.errors import InputError
from notifier.rehearsal.faults import Both, Fate, fate
from notifier.states import Channel, Exclusion, Variant


def _in_a_row(text: str) -> tuple[str, ...]:
    return tuple(text.split())


MOBILES = 10_000
LANDLINE_BLOCKS = ("019900", "026191", "035301", "046571", "053649")
EMAIL_DOMAINS = (
    *("orange.example.fr", "free.example.fr", "laposte.example.fr", "sfr.example.fr", "mail.example.com"),
    *("example.org", "example.com", "example.net", "example.fr", "courrier.example.org", "boite.example.net"),
)
# Doctors and patients share no surname, so that a doctor's name in a text never reads as a patient's.
DOCTOR_SURNAMES = _in_a_row(
    "Abadie Bastide Carrère Delmas Estève Ferrand Gaillard Hébrard Imbert Jourdan Lacaze Maurin Nogaret Oddou "
    "Peyre Quintin Rouvière Sabatier Teissier Vidal Astruc Bonnafous Cazals Duprat Fabrègue Granier Héraud "
    "Laurens Mazars Pons"
)
DOCTOR_FIRST_NAMES = _in_a_row(
    "Claire Antoine Béatrice Cédric Delphine Étienne François Gaëlle Hugues Inès Jérôme Karine Luc Mireille "
    "Noémie Olivier Pascale Quentin Régis Solène Thibault Ursule Valérie Xavier Yvonne Zoé Agnès Bruno Cécile "
    "Denis"
)
SURNAMES = _in_a_row(
    "Dupont Durand Lefèvre Moreau Garnier Chevalier François Mercier Blanc Guérin Boyer Garcia Lopez Nguyen "
    "Benali Diallo Traoré Kowalski Rossi Silva Müller Schmitt Le-Goff Kervella d'Artois De-La-Tour Du-Bois "
    "Lebrun Renaud Picard Leclerc Roy Noël Colin Perrot Brunet Schneider Hamon Kaya Haddad O'Brien Núñez "
    "Besançon Fréchet Gérôme Maçon Hervé Étournaud Lévêque Pâris"
)
FIRST_NAMES = _in_a_row(
    "Marie Jean Hélène Pierre Françoise Michel Nathalie Jean-Pierre Monique Éric Sylvie Thierry Anne-Marie "
    "Loïc Chloé Léa Emma Noé Gaël Zoë Aïcha Mohamed Fatima Youssef Mei Anh Olga Piotr José Inès Benoît Océane "
    "Mathis Jules Lucas Camille Andréa Raphaël Manon Théo Élodie Kévin Cédric Bérénice Maël Tom Ana Sara Ludivine "
    "Gérard"
)
STREETS = (
    "12 rue des Lilas", "3 bis avenue de la République", "Lieu-dit Le Bourg", "45 bd Jean-Jaurès",
    "7 impasse de l'Église", "Résidence Les Pins, bât. B", "118 route de la Forêt", "1 place du Marché",
)  # fmt: skip
TOWNS = (
    ("01000", "Bourg-en-Bresse"), ("06400", "Cannes"), ("20167", "Ajaccio"), ("31000", "Toulouse"),
    ("33000", "Bordeaux"), ("44000", "Nantes"), ("69003", "Lyon"), ("75011", "Paris"), ("09100", "Pamiers"),
)  # fmt: skip
COMMENTS = (
    "A rappeler avant le prochain rendez-vous",
    'Préfère être appelé le soir ; dit "ne pas laisser de message"',
    "Voir courrier\nclassé au dossier papier",
    "Situation familiale à ne pas évoquer, merci",
)
EMAIL_FILLERS = ("aucun", "neant@neant.example.fr", "NC", "-", "pas de mail", "aucun@example.fr", "inconnu", "@")
PHONE_FILLERS = ("0000000000", "00 00 00 00 00", "néant", "?", "pas de tel", "-")


@dataclass(slots=True)
class Person:
    """One person of one doctor's list, and what is true about them."""

    doctor: str
    first: str
    last: str
    born: date
    #: normal form: lower case
    email: list[str] = field(default_factory=list)
    #: E.164
    sms: list[str] = field(default_factory=list)
    language: str = "fr"
    variant: Variant = Variant.STANDARD
    sensitive: bool = False
    excluded: Exclusion | None = None
    #: whether a contact stands in the list in a form that any import has to take
    must_be_tried: bool = False
    #: whether, under the faults of this run, some contact of theirs works
    reachable: bool = False
    #: as a spreadsheet counts, the title line included; more than one where the list names them twice
    rows: list[int] = field(default_factory=list)
    landline: str = ""
    address: tuple[str, str, str] = ("", "", "")
    patient_id: str = ""

    def contacts(self, channel: Channel) -> list[str]:
        return self.email if channel is Channel.EMAIL else self.sms


@dataclass(frozen=True, slots=True)
class Truth:
    """What an incident's lists really hold."""

    seed: int
    #: data rows of all lists together, rows that repeat a person included
    rows: int
    doctors: list[dict[str, str]]
    people: list[Person]

    def allowed(self) -> dict[tuple[str, Channel, str], list[Person]]:
        """(doctor, channel, contact) → the people who may be told there; the excluded may be told nowhere."""
        found: dict[tuple[str, Channel, str], list[Person]] = {}
        for person in self.people:
            for channel in Channel if person.excluded is None else ():
                for contact in person.contacts(channel):
                    found.setdefault((person.doctor, channel, contact), []).append(person)
        return found

    def to_json(self) -> dict[str, Any]:
        """What `truth.json` holds."""
        contacts = [
            {"doctor": doctor, "channel": channel, "contact": contact, "rows": sorted(p.rows[0] for p in people)}
            for (doctor, channel, contact), people in self.allowed().items()
        ]
        people = [{**asdict(person), "born": person.born.isoformat()} for person in self.people]
        return {
            "seed": self.seed, "rows": self.rows, "doctors": self.doctors, "people": people, "contacts": contacts
        }  # fmt: skip

    @classmethod
    def read(cls, path: Path) -> Truth:
        known = json.loads(path.read_text("utf-8"))
        people = [
            Person(
                **{
                    **person,
                    "born": date.fromisoformat(person["born"]),
                    "variant": Variant(person["variant"]),
                    "excluded": Exclusion(person["excluded"]) if person["excluded"] else None,
                    "address": tuple(person["address"]),
                }
            )
            for person in known["people"]
        ]
        return cls(known["seed"], known["rows"], known["doctors"], people)


def make_incident(
    seed: int,
    doctors: int = 3,
    patients: int = 3000,
    out_dir: Path = Path("incident"),
    faults: Both | None = None,
    *,
    fates: int | None = None,
) -> Truth:
    """Writes `incident.json`, `doctors.json`, `list-<doctor>.csv` and `truth.json` into `out_dir`.

    `patients` is the number of data rows over all lists, exactly. The same arguments give the same bytes.
    `faults` (of the rehearsal servers, whose seed is `fates`, by default the same) decide who counts as reachable.
    Raises InputError for fewer patients than doctors, or more doctors than there are names.
    """
    if not 1 <= doctors <= len(DOCTOR_SURNAMES) * len(DOCTOR_FIRST_NAMES) * 5 or patients < doctors:
        raise InputError("An incident needs at least one doctor, one row for each, and at most 4,500 doctors.")
    out_dir.mkdir(parents=True, exist_ok=True)
    dice = random.Random(f"incident {seed}")
    signers = _make_doctors(dice, doctors)
    everyone: list[Person] = []
    for index, (signer, rows) in enumerate(zip(signers, _unequal_shares(dice, patients, doctors), strict=True)):
        # A dice of its own: one doctor's list does not change with the number of others.
        own = random.Random(f"incident {seed} doctor {signer['reference']} {rows}")
        people, order = _make_people(own, signer["reference"], rows)
        form = FORMS[index % len(FORMS)]
        _write_list(out_dir / f"list-{signer['reference']}.csv", own, form, signer, order)
        everyone += people
    for person in everyone:
        person.reachable = person.excluded is None and _is_reachable(
            person, faults or Both(), seed if fates is None else fates
        )
    truth = Truth(seed, patients, signers, everyone)
    _write_json(out_dir / "incident.json", incident_facts())
    _write_json(out_dir / "doctors.json", signers)
    _write_json(out_dir / "truth.json", truth.to_json())
    return truth


def incident_facts() -> dict[str, Any]:
    """The made-up incident: its reference, its legal profile, and the facts a notice is composed from."""
    phone, mail = "01 99 00 10 00", "contact@logiciel.example.org"
    return {
        "reference": "rehearsal-2025-11",
        "profile": "eu-gdpr-fr",
        "facts": {
            "what_happened": {
                "fr": "Un tiers a copié des fichiers administratifs de patients, entré avec un mot de passe volé.",
                "en": "A third party copied patients' administrative files, entering with a stolen password.",
            },
            "breach_on": "2025-10-25",
            "discovered_on": "2025-10-27",
            "processor": "Logiciel Exemple SAS",
            "categories": [
                {"fr": "nom, prénom, sexe", "en": "name, first name, sex"},
                {"fr": "date de naissance", "en": "date of birth"},
                {"fr": "téléphone, adresse postale, adresse e-mail", "en": "phone, postal address, email address"},
            ],
            "not_concerned": {
                "fr": "Le dossier médical, les ordonnances et les résultats d'examens n'ont pas été touchés.",
                "en": "Medical records, prescriptions and test results were not touched.",
            },
            "consequences": {
                "fr": "Vous pourriez recevoir de faux messages ou appels d'un prétendu médecin, d'une "
                "prétendue mutuelle ou banque, ou voir votre identité utilisée par quelqu'un d'autre.",
                "en": "You may get false messages or calls from someone posing as a doctor, an insurer or a "
                "bank, or find your identity used by somebody else.",
            },
            "measures_taken": {
                "fr": "L'accès volé a été fermé le 27 octobre, tous les mots de passe ont été changés et une "
                "double authentification est exigée ; une plainte a été déposée.",
                "en": "The stolen access was closed on 27 October, all passwords were changed and a second factor "
                "is now required; a complaint was filed.",
            },
            "advice": {
                "fr": "Ne donnez ni code, ni mot de passe, ni numéro de carte à qui vous contacte. En cas de "
                "doute, rappelez le cabinet au numéro que vous connaissez. Surveillez vos comptes bancaires.",
                "en": "Give no code, password or card number to anyone who contacts you. In doubt, call the "
                "practice on the number you know. Watch your bank accounts.",
            },
            "contact": {
                "name": "Service d'information des patients",
                "phone": phone,
                "email": mail,
                "post": "Logiciel Exemple SAS, 1 rue de l'Exemple, 75011 Paris",
                "hours": {"fr": "du lundi au vendredi, 9 h - 18 h", "en": "Monday to Friday, 9 am to 6 pm"},
            },
            "dpo": {"name": "Service juridique de Logiciel Exemple SAS", "email": "dpo@logiciel.example.org"},
            "authority": {"told_on": "2025-10-29", "complaint_on": "2025-10-28"},
            "short": {
                "what_happened": {
                    "fr": "Un tiers a copié des fichiers de patients.",
                    "en": "A third party copied administrative files of patients.",
                },
                "categories": [
                    {
                        "fr": "nom, sexe, naissance, téléphone, adresse, e-mail",
                        "en": "name, sex, birth date, phone, address, email",
                    }
                ],
                "not_concerned": {"fr": "Dossier médical non touché.", "en": "Medical records not touched."},
                "consequences": {
                    "fr": "faux messages ou appels, usurpation d'identité.",
                    "en": "false messages or calls, identity theft.",
                },
                "measures_taken": {
                    "fr": "accès fermé, mots de passe changés, plainte déposée.",
                    "en": "access closed, passwords changed, complaint filed.",
                },
                "advice": {
                    "fr": "ne donnez ni code ni mot de passe ; en cas de doute, appelez le cabinet.",
                    "en": "give no code or password; in doubt, call the practice.",
                },
            },
        },
    }


# ---- people -----------------------------------------------------------------------------------------------------


def _make_doctors(dice: random.Random, count: int) -> list[dict[str, str]]:
    names = [(first, last) for last in DOCTOR_SURNAMES for first in DOCTOR_FIRST_NAMES]
    if count > len(names):
        pairs = zip(DOCTOR_SURNAMES, (*DOCTOR_SURNAMES[7:], *DOCTOR_SURNAMES[:7]), strict=True)
        doubled = [f"{one}-{other}" for one, other in pairs]
        names += [(first, last) for last in doubled for first in DOCTOR_FIRST_NAMES]
        names += [(f"{first}-{second}", last) for first, second, last in _compound_names()]
    dice.shuffle(names)
    found = []
    for n, (first, last) in enumerate(names[:count]):
        street, (code, town) = dice.choice(STREETS), dice.choice(TOWNS)
        block = LANDLINE_BLOCKS[n % len(LANDLINE_BLOCKS)]
        found.append(
            {
                "reference": f"D{n + 1:04d}",
                "name": f"Dr {first} {last}",
                "practice": f"Cabinet médical du Dr {last}",
                "address": f"{street}, {code} {town}",
                "phone": _spaced(f"{block}{1234 + n // len(LANDLINE_BLOCKS):04d}"),
                "email": f"{_ascii(first)}.{_ascii(last)}@cabinet.example.fr",
            }
        )
    return found


def _compound_names() -> Iterator[tuple[str, str, str]]:
    for shift in (1, 2, 3):
        for n, first in enumerate(DOCTOR_FIRST_NAMES):
            second = DOCTOR_FIRST_NAMES[(n + shift) % len(DOCTOR_FIRST_NAMES)]
            for last in DOCTOR_SURNAMES:
                yield first, second, last


def _unequal_shares(dice: random.Random, rows: int, doctors: int) -> list[int]:
    """Rows of each doctor: at least one, summing to `rows`, the largest some times the smallest."""
    weights = [dice.uniform(0.4, 2.0) for _ in range(doctors)]
    spare = rows - doctors
    shares = [1 + int(spare * weight / sum(weights)) for weight in weights]
    shares[0] += rows - sum(shares)
    return shares


class _Contacts:
    """Hands out contacts that nobody else of this doctor has."""

    def __init__(self, dice: random.Random, people: int) -> None:
        self._dice = dice
        self._mobiles = dice.sample(range(MOBILES), min(MOBILES, people))
        self._emails: dict[str, int] = {}

    def mobile(self) -> list[str]:
        """An own number, or none once the block is used up."""
        return [f"+3363998{self._mobiles.pop():04d}"] if self._mobiles else []

    def email(self, first: str, last: str) -> str:
        local = (
            f"{_ascii(first)}.{_ascii(last)}"
            if self._dice.random() < 0.7
            else f"{_ascii(first)[:1]}{_ascii(last)}"
        )
        address = f"{local}@{self._dice.choice(EMAIL_DOMAINS)}"
        seen = self._emails[address] = self._emails.get(address, 0) + 1
        return (
            address
            if seen == 1
            else f"{local}{seen}.{address.partition('@')[2].partition('.')[0]}@mail.example.net"
        )


@dataclass(slots=True)
class _Row:
    """One row to write: a person, and which of their contacts this row shows, as it writes them."""

    person: Person
    email: str
    phones: list[str]
    is_repeat: bool = False


def _make_people(dice: random.Random, doctor: str, rows: int) -> tuple[list[Person], list[_Row]]:
    """People until the rows are full, and the rows in the order of the list."""
    people: list[Person] = []
    written: list[_Row] = []
    contacts = _Contacts(dice, rows)
    taken: set[tuple[str, str, date]] = set()
    while len(written) < rows:
        room = rows - len(written)
        family = _make_family(dice, doctor, contacts, min(room, 5), taken)
        for person in family:
            person.patient_id = f"{100_000 + len(people)}"
            people.append(person)
            written.append(_first_row(dice, person))
        repeated = dice.choice(family)
        if len(written) < rows and dice.random() < 0.06:
            written.append(_repeat(dice, repeated, contacts, shares=len(family) > 1))
    dice.shuffle(written)
    return people, written


def _make_family(
    dice: random.Random, doctor: str, contacts: _Contacts, room: int, taken: set[tuple[str, str, date]]
) -> list[Person]:
    """One person alone, or a household that shares a mailbox, a number or both."""
    last = dice.choice(SURNAMES)
    size = min(room, dice.choice((2, 2, 3, 4))) if dice.random() < 0.12 else 1
    language = "en" if dice.random() < 0.03 else "fr"
    address = (dice.choice(STREETS), *dice.choice(TOWNS)) if dice.random() < 0.85 else ("", "", "")
    family = []
    for n in range(size):
        is_child = n > 1 or (n == 1 and dice.random() < 0.5)
        family.append(_make_person(dice, doctor, last, is_child, taken))
    head = family[0]
    _give_contacts(dice, head, contacts)
    for member in family:
        member.language, member.address = language, address
        if member is not head:
            member.email, member.sms, member.landline = list(head.email), list(head.sms), head.landline
    if size == 1 and dice.random() < 0.03:
        # Only for those alone: people who share a number then share one text too.
        head.variant, head.sensitive = Variant.COMMENT, dice.random() < 0.3
    if size == 1 and head.email and dice.random() < 0.02:
        head.email.append(contacts.email(head.first, head.last))
    for member in family:
        if dice.random() < 0.02:
            member.excluded = Exclusion.DECEASED
    return family


def _make_person(
    dice: random.Random, doctor: str, last: str, is_child: bool, taken: set[tuple[str, str, date]]
) -> Person:
    """Nobody else of this doctor has the same names and birth date: that would be the same person."""
    while True:
        first = dice.choice(FIRST_NAMES)
        born = date(2008, 1, 1) if is_child else date(1928, 1, 1)
        born += timedelta(days=dice.randrange(16 * 365 if is_child else 79 * 365))
        if (first, last, born) not in taken:
            taken.add((first, last, born))
            return Person(doctor, first, last, born)


def _give_contacts(dice: random.Random, person: Person, contacts: _Contacts) -> None:
    has_email, has_mobile = dice.choices(
        ((True, True), (True, False), (False, True), (False, False)), (48, 20, 22, 10)
    )[0]
    if has_email:
        person.email = [contacts.email(person.first, person.last)]
    if has_mobile:
        person.sms = contacts.mobile()
    if dice.random() < 0.4:
        person.landline = f"{dice.choice(LANDLINE_BLOCKS)}{dice.randrange(10_000):04d}"


# ---- how a row is written ---------------------------------------------------------------------------------------


def _first_row(dice: random.Random, person: Person) -> _Row:
    email, phones = "", []
    if len(person.email) > 1:
        # Whether an import takes the first, all or none of them is its own decision.
        email = dice.choice((" ; ", " ou ", " / ")).join(person.email)
    elif person.email:
        email, is_plain = _write_email(dice, person)
        person.must_be_tried |= is_plain
    elif dice.random() < 0.25:
        email = dice.choice((*EMAIL_FILLERS, *_broken_emails(person)))
    if person.sms:
        is_childs = person.born.year >= 2008
        phones.append(
            _write_mobile(dice, person.sms[0]) + (" (mère)" if is_childs and dice.random() < 0.2 else "")
        )
        person.must_be_tried = True
    elif dice.random() < 0.2:
        phones.append(dice.choice((*PHONE_FILLERS, *_broken_phones(dice))))
    if person.landline:
        phones.append(_spaced(person.landline) + dice.choice(("", "", " (domicile)", " travail")))
    if person.excluded is not None:
        person.must_be_tried = False
    return _Row(person, email, phones)


def _repeat(dice: random.Random, person: Person, contacts: _Contacts, shares: bool) -> _Row:
    """The same person once more, with other capitals, and sometimes a contact the first row does not have."""
    phones = [_write_mobile(dice, number) for number in person.sms]
    if not person.sms and not shares and dice.random() < 0.5 and (found := contacts.mobile()):
        person.sms = found
        person.must_be_tried = person.excluded is None
        phones = [_write_mobile(dice, found[0])]
    return _Row(person, person.email[0] if person.email and dice.random() < 0.7 else "", phones, is_repeat=True)


def _write_email(dice: random.Random, person: Person) -> tuple[str, bool]:
    """A spelling of the person's address, and whether any import has to understand it."""
    address = person.email[0]
    local, _, domain = address.partition("@")
    spellings: tuple[tuple[Callable[[], str], bool, int], ...] = (
        (lambda: address, True, 80),
        (lambda: f"{local}@{domain.upper()}", True, 4),
        (lambda: f"  {address} ", True, 4),
        (lambda: f"{person.first} {person.last} <{address}>", True, 3),
        (lambda: f"{address};", False, 2),
        (lambda: f"mailto:{address}", False, 1),
    )
    write, is_plain, _ = dice.choices(spellings, [weight for _, _, weight in spellings])[0]
    return write(), is_plain


def _broken_emails(person: Person) -> tuple[str, ...]:
    """Typing errors that leave no address: whoever guesses at them writes to a stranger."""
    local = f"{_ascii(person.first)}.{_ascii(person.last)}"
    return (f"{local}@example,org", f"{local}@@example.org", f"{local}.example.org", f"{local}@example..org",
            f"{local}@", f"{local}@example")  # fmt: skip


def _write_mobile(dice: random.Random, number: str) -> str:
    national = f"0{number[3:]}"
    pairs = [national[n : n + 2] for n in range(0, 10, 2)]
    spellings = (
        " ".join(pairs), " ".join(pairs), ".".join(pairs), "-".join(pairs), national, national,
        "\u00a0".join(pairs), f"+33 {pairs[0][1]} {' '.join(pairs[1:])}", number, f"0033{national[1:]}",
        f"+33 (0){pairs[0][1]} {' '.join(pairs[1:])}", national[1:], number[1:],
        f"{' '.join(pairs)} (portable)", f"Port. {'.'.join(pairs)}",
    )  # fmt: skip
    return dice.choice(spellings)


def _broken_phones(dice: random.Random) -> tuple[str, ...]:
    """Masked, cut, too long, or digits lost to a spreadsheet: no number can be read from them."""
    tail = f"{dice.randrange(100):02d}"
    return (f"06 39 98 ** {tail}", f"06 39 98 {tail}", f"06 39 98 {tail} 12 345", "3,36400E+10", "06 XX XX XX XX")


# ---- how a list is written --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Form:
    """How one practice software exports: all cells are text, made from a row by `_cell`."""

    #: (header, what the column holds)
    columns: tuple[tuple[str, str], ...]
    delimiter: str
    encoding: str
    line_end: str = "\r\n"
    quote_all: bool = False
    title: bool = False
    totals: bool = False
    trailing: int = 0
    date_form: str = "%d/%m/%Y"
    yes: str = "O"
    no: str = ""
    english: str = "en"
    french: str = ""
    capitals: bool = False
    #: only whether there is a comment, not its text
    comment_flag: bool = False


def _columns(text: str) -> tuple[tuple[str, str], ...]:
    pairs = (part.split("=") for part in text.split("|"))
    return tuple((header.strip(), meaning.strip()) for header, meaning in pairs)


FORMS = (
    Form(
        _columns(
            "N° patient=id|Nom=last|Prénom=first|Né(e) le=born|E-mail=email|Téléphone=phone2|Portable=phone1|"
            "Adresse=street|CP=code|Ville=town|Langue=language|Décédé=deceased|Commentaire=comment|"
            "Commentaire sensible=sensitive"
        ),
        ";", "cp1252", title=True, totals=True, trailing=2, capitals=True,
    ),
    Form(
        _columns(
            "Nom=last|Prénoms=first|DDN=born|Courriel=email|Tél.=phones|Adresse postale=street|Code postal=code|"
            "Commune=town|Langue parlée=language|Date de décès=death|Remarque=comment|Remarque sensible=sensitive"
        ),
        ",", "utf-8-sig", quote_all=True, yes="oui", no="non", english="Anglais", french="Français",
    ),
    Form(
        _columns(
            "IPP=id|NOM=last|PRENOM=first|DATE NAISSANCE=born|MAIL=email|TEL FIXE=phone2|TEL MOBILE=phone1|"
            "ADRESSE=street|CODE POSTAL=code|VILLE=town|LANGUE=language|DCD=deceased|COMMENTAIRE=comment|"
            "SENSIBLE=sensitive"
        ),
        "\t", "utf-16", yes="X", english="EN", french="FR", capitals=True, totals=True, comment_flag=True,
    ),
    Form(
        _columns(
            "Identifiant=id|Nom=last|Prénom=first|Date de naissance=born|Adresse e-mail=email|"
            "Numéro de portable=phone1|Tél. domicile=phone2|Décès=deceased|Langue=language|Observations=comment|"
            "Note sensible=sensitive"
        ),
        ";", "utf-8", line_end="\n", date_form="%Y-%m-%d", yes="1", no="0", title=True, comment_flag=True,
    ),
    Form(
        _columns(
            "Prénom=first|Nom de famille=last|Naissance=born|Tél.=phones|Mél=email|Rue=street|CP=code|Ville=town|"
            "Décédé(e)=deceased|Langue=language|Commentaires=comment|Sensible=sensitive"
        ),
        ";", "iso-8859-15", yes="oui", no="non", trailing=1, totals=True, english="anglais",
    ),
)  # fmt: skip


def _write_list(path: Path, dice: random.Random, form: Form, signer: dict[str, str], rows: Sequence[_Row]) -> None:
    lines: list[list[str]] = []
    if form.title:
        lines += [[f"Liste des patients - {signer['practice']}"], []]
    width = len(form.columns) + form.trailing
    lines.append(_padded([header for header, _ in form.columns], width))
    for row in rows:
        row.person.rows.append(len(lines) + 1)
        lines.append(_padded([_cell(dice, form, row, meaning) for _, meaning in form.columns], width))
    if form.totals:
        lines.append(_padded([f"Total : {len(rows)} patients"], width))
    text = io.StringIO()
    csv.writer(
        text,
        delimiter=form.delimiter,
        quoting=csv.QUOTE_ALL if form.quote_all else csv.QUOTE_MINIMAL,
        lineterminator=form.line_end,
    ).writerows(lines)
    path.write_bytes(text.getvalue().encode(form.encoding))
    for row in rows:
        row.person.rows.sort()


def _padded(cells: list[str], width: int) -> list[str]:
    return cells + [""] * (width - len(cells))


def _cell(dice: random.Random, form: Form, row: _Row, meaning: str) -> str:
    person = row.person
    match meaning:
        case "id":
            return person.patient_id
        case "last" | "first":
            name = person.last.replace("De-La-", "De La ") if meaning == "last" else person.first
            if meaning == "last" and (form.capitals or row.is_repeat):
                name = _without_accents(name).upper() if row.is_repeat else name.upper()
            return name
        case "born":
            return person.born.strftime(form.date_form)
        case "email":
            return row.email
        case "phone1":
            return row.phones[0] if row.phones else ""
        case "phone2":
            return " / ".join(row.phones[1:])
        case "phones":
            return dice.choice((" / ", " ou ", " ; ")).join(row.phones)
        case "street":
            return person.address[0]
        case "code":
            # A spreadsheet takes the leading zero.
            return person.address[1].lstrip("0") if dice.random() < 0.5 else person.address[1]
        case "town":
            return person.address[2]
        case "language":
            return form.english if person.language == "en" else form.french
        case "deceased":
            return form.no if person.excluded is None else form.yes
        case "death":
            # later than anybody's birth: nobody has died before
            return "" if person.excluded is None else "14/03/2025"
        case "comment":
            if person.variant is Variant.STANDARD:
                return form.no if form.comment_flag else ""
            return form.yes if form.comment_flag else dice.choice(COMMENTS)
        case "sensitive":
            return form.yes if person.sensitive else form.no
    raise AssertionError(meaning)


# ---- small things -----------------------------------------------------------------------------------------------


def _is_reachable(person: Person, faults: Both, seed: int) -> bool:
    works = {Fate.ARRIVES, Fate.SILENT, Fate.SOFT_BOUNCES_ONCE}
    return any(fate(faults.email, seed, address) in works for address in person.email) or any(
        fate(faults.sms, seed, number) in works for number in person.sms
    )


def _spaced(number: str) -> str:
    return " ".join(number[n : n + 2] for n in range(0, len(number), 2))


def _without_accents(text: str) -> str:
    return "".join(sign for sign in unicodedata.normalize("NFKD", text) if not unicodedata.combining(sign))


def _ascii(name: str) -> str:
    return "".join(sign for sign in _without_accents(name).lower() if sign.isascii() and sign.isalnum())


def _write_json(path: Path, values: object) -> None:
    path.write_text(json.dumps(values, ensure_ascii=False, indent=1, default=str) + "\n", "utf-8")
