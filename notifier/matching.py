"""Who is who: rows of one person become one, rows of two stay two, and pairs in doubt are said. Pure.

A person is known again by patient id, then national identifier, then names and birth date. Keys may be the
strings of `judging.Keys` or their keyed hashes: nothing here looks into them, so a database of hashes will do.
"""

from __future__ import annotations

import bisect
import heapq
import itertools
from collections.abc import Collection, Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from notifier.importers import Column
from notifier.judging import Identity, Judged, RowReason
from notifier.states import Channel, Exclusion, Variant

#: a contact of more people than this is not personal; a family is smaller
MOST_SHARING = 6

#: so many people of one patient id are compared with a row; further ones are known again by all their data
_COMPARED = 8

#: more people of one name and birth date are told apart by an index
_FEW = 8

#: the channel and the address, or its keyed hash
Contact = tuple[Channel, Hashable]
_COLUMNS = {Channel.EMAIL: Column.EMAIL, Channel.SMS: Column.PHONE}


class Keys(NamedTuple):
    """`judging.Keys`, or the keyed hash of each."""

    id: Hashable | None
    national: Hashable | None
    name: Hashable | None
    other: Hashable | None
    apart: Hashable | None

    def present(self) -> list[Hashable]:
        """All but `apart`, strongest first."""
        return [key for key in self[:4] if key is not None]


@dataclass(slots=True)
class Said:
    """What one row says about its person."""

    row: int
    keys: Keys
    identity: Identity
    contacts: list[Contact]
    language: str
    comment: bool | None
    sensitive: bool | None
    is_deceased: bool
    affected: bool | None

    @classmethod
    def of(cls, judged: Judged) -> Said:
        """A judged row under its plain keys, as a check without a database has it."""
        return cls(
            judged.row,
            Keys(*judged.keys, judged.apart),
            judged.identity,
            [(channel, address.casefold()) for _, channel, address in judged.contacts()],
            judged.language,
            judged.comment,
            judged.comment_sensitive,
            judged.excluded == Exclusion.DECEASED,
            judged.affected,
        )


@dataclass(slots=True)
class Person:
    """One person as the rows so far have it."""

    #: unique in the campaign
    key: Hashable
    #: of the patient id, the national identifier, names and birth date: the first it was given, each
    id_key: Hashable | None
    national: Hashable | None
    name: Hashable | None
    identity: Identity
    contacts: list[Contact]
    language: str
    comment: bool
    sensitive: bool
    is_deceased: bool
    affected: bool | None
    #: rows of this list
    rows: list[int] = field(default_factory=list)
    #: known from an earlier list, and not yet named by this one
    is_earlier: bool = False
    #: `contacts`, for look-ups: an export may give thousands to one name
    _has: set[Contact] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self._has = set(self.contacts)

    @classmethod
    def new(cls, key: Hashable, said: Said) -> Person:
        return cls(
            key,
            said.keys.id,
            said.keys.national,
            said.keys.name,
            said.identity,
            list(said.contacts),
            said.language,
            bool(said.comment),
            bool(said.sensitive),
            said.is_deceased,
            said.affected,
            [said.row],
        )

    @property
    def keys(self) -> list[Hashable]:
        """All it is known by."""
        return [key for key in (self.key, self.id_key, self.national, self.name) if key is not None]

    @property
    def excluded(self) -> Exclusion | None:
        if self.is_deceased:
            return Exclusion.DECEASED
        return Exclusion.NOT_AFFECTED if self.affected is False else None

    @property
    def variant(self) -> Variant:
        return Variant.COMMENT if self.comment else Variant.STANDARD

    def shares_a_contact(self, said: Said) -> bool:
        return not self._has.isdisjoint(said.contacts)

    def take(self, said: Said, columns: Collection[Column]) -> list[RowReason]:
        """Adds a further row; returns what is doubtful about the two together.

        The first row of a further list replaces what that list has columns for, whatever an earlier list said;
        a further row of the same list adds what is missing.
        """
        doubts: list[RowReason] = []
        if self.is_earlier:
            self._replace(said, columns)
        else:
            self.identity = self.identity.merged_with(said.identity)
            self.contacts += [contact for contact in said.contacts if contact not in self._has]
            self._has.update(said.contacts)
            self.comment |= bool(said.comment)
            self.sensitive |= bool(said.sensitive)
            self.is_deceased |= said.is_deceased
            if {self.affected, said.affected} == {True, False}:
                doubts.append(RowReason.YES_AND_NO)
            self.affected = _either(self.affected, said.affected)
        self.is_earlier = False
        self.rows.append(said.row)
        self.id_key = self.id_key or said.keys.id
        self.national = self.national or said.keys.national
        self.name = self.name or said.keys.name
        return doubts

    def _replace(self, said: Said, columns: Collection[Column]) -> None:
        identity = said.identity.merged_with(self.identity)
        if Column.PHONE in columns:
            identity.phones = said.identity.phones
        self.identity = identity
        kept = [contact for contact in self.contacts if _COLUMNS[contact[0]] not in columns]
        self.contacts = kept + [contact for contact in said.contacts if contact not in kept]
        self._has = set(self.contacts)
        if Column.LANGUAGE in columns:
            self.language = said.language
        if Column.DECEASED in columns:
            self.is_deceased = said.is_deceased
        if Column.AFFECTED in columns:
            self.affected = said.affected
        # a comment stays one unless the list says that there is none
        self.sensitive = (
            said.sensitive if said.sensitive is not None else self.sensitive and said.comment is not False
        )
        self.comment = said.comment if said.comment is not None else self.comment


def _either(one: bool | None, other: bool | None) -> bool | None:
    """True if one says so, else False if one says so, else None."""
    return (one or other) if None not in (one, other) else other if one is None else one


class Placed(NamedTuple):
    """Whose row it is."""

    person: Person
    is_new: bool
    #: (column, reason)
    doubts: list[tuple[str, RowReason]]


class People:
    """Everybody a row could belong to, by every key they are known under."""

    def __init__(self, columns: Collection[Column], known: Iterable[Person] = ()) -> None:
        self._columns = columns
        #: by `id()`, because further rows change a person
        self._by_key: dict[Hashable, dict[int, Person]] = {}
        #: of names and birth dates that many have
        self._namesakes: dict[Hashable, _Namesakes] = {}
        for person in known:
            self._index(person, person.keys)

    def __iter__(self) -> Iterator[Person]:
        everybody: dict[int, Person] = {}
        for people in self._by_key.values():
            everybody |= people
        return iter(everybody.values())

    def place(self, said: Said) -> Placed:
        """Adds a row to its person, or makes a new one of it. The row must have a key."""
        doubts: list[tuple[str, RowReason]] = []
        person = self._whose(said, doubts)
        if person is None:
            person = Person.new(self._free_key(said.keys), said)
            self._index(person, [person.key, *said.keys.present()])
            self._index_namesake(person, said)
            return Placed(person, True, doubts)
        doubts += [(str(Column.AFFECTED), reason) for reason in person.take(said, self._columns)]
        self._index(person, said.keys.present())
        self._index_namesake(person, said)
        return Placed(person, False, doubts)

    def _whose(self, said: Said, doubts: list[tuple[str, RowReason]]) -> Person | None:
        keys = said.keys
        same_id = self._under(keys.id)
        # of a couple the one whose contact it is
        compared = sorted(itertools.islice(same_id, _COMPARED), key=lambda one: not one.shares_a_contact(said))
        for person in compared:
            if not is_another(person, said):
                return person
        for person in self._under(keys.national):
            if not person.identity.contradicts(said.identity):
                return person
        twins = self._under(keys.name)
        namesakes = self._namesakes_of(keys.name)
        for person in twins if namesakes is None else namesakes.sharing(said):
            if person.shares_a_contact(said) and not _other_national(person, said):
                return person
        for person in twins if namesakes is None else namesakes.without_another_id(said):
            if _one_without_id(person, said) and not _other_national(person, said):
                return person
        # what was the same once is the same again, even if a list has added to it since
        for person in (*self._under(keys.apart), *self._under(keys.other)):
            return person
        if same_id:
            doubts.append((str(Column.PATIENT_ID), RowReason.SAME_ID))
        elif self._under(keys.national) or any(not _other_national(person, said) for person in twins):
            doubts.append((str(Column.PATIENT_ID), RowReason.POSSIBLE_DOUBLE))
        return None

    def _under(self, key: Hashable | None) -> Collection[Person]:
        return self._by_key.get(key, {}).values() if key is not None else ()

    def _namesakes_of(self, name: Hashable | None) -> _Namesakes | None:
        """None where there are few."""
        if name is None or len(self._under(name)) <= _FEW:
            return None
        if name not in self._namesakes:
            self._namesakes[name] = namesakes = _Namesakes()
            for person in self._under(name):
                namesakes.add(person, person.contacts)
        return self._namesakes[name]

    def _index_namesake(self, person: Person, said: Said) -> None:
        # Also where the row does not say the name: its contacts are the person's now.
        for name in {person.name, said.keys.name}:
            if name in self._namesakes:
                self._namesakes[name].add(person, said.contacts)

    def _free_key(self, keys: Keys) -> Hashable:
        free = [key for key in keys.present() if key not in self._by_key]
        # a weaker key would be nobody's own where a stronger one is somebody else's
        if free and free[0] == keys.present()[0]:
            return free[0]
        return keys.apart if keys.apart is not None else free[0]

    def _index(self, person: Person, keys: Iterable[Hashable]) -> None:
        for key in keys:
            self._by_key.setdefault(key, {})[id(person)] = person


class _Namesakes:
    """Everybody of one name and birth date, in order: what a row costs does not grow with their number."""

    def __init__(self) -> None:
        self._people: list[Person] = []
        self._places: dict[int, int] = {}
        #: places, rising
        self._by_contact: dict[Contact, list[int]] = {}
        self._by_id: dict[str | None, list[int]] = {}

    def add(self, person: Person, contacts: Collection[Contact]) -> None:
        """Adds a person with all their contacts, or what is new of one: contacts, and the patient id."""
        place = self._places.setdefault(id(person), len(self._people))
        if place == len(self._people):
            self._people.append(person)
            # Who gets the name later had contacts before.
            contacts = person.contacts
        for contact in contacts:
            _put(self._by_contact.setdefault(contact, []), place)
        own = _folded_id(person.identity)
        _put(self._by_id.setdefault(own, []), place)
        if own is not None:
            _take_out(self._by_id.get(None, []), place)

    def sharing(self, said: Said) -> Iterator[Person]:
        """Who may share a contact with a row, in order."""
        return self._in_order([self._by_contact.get(contact, []) for contact in said.contacts])

    def without_another_id(self, said: Said) -> Iterator[Person]:
        """Who may have no patient id or the row's own, in order."""
        own = _folded_id(said.identity)
        if own is None:
            return iter(self._people)
        return self._in_order([self._by_id.get(None, []), self._by_id.get(own, [])])

    def _in_order(self, places: list[list[int]]) -> Iterator[Person]:
        return (self._people[place] for place in heapq.merge(*places))


def _put(places: list[int], place: int) -> None:
    at = bisect.bisect_left(places, place)
    if at == len(places) or places[at] != place:
        places.insert(at, place)


def _take_out(places: list[int], place: int) -> None:
    at = bisect.bisect_left(places, place)
    if at < len(places) and places[at] == place:
        del places[at]


def _folded_id(identity: Identity) -> str | None:
    return identity.patient_id.casefold() if identity.patient_id else None


def is_another(person: Person, said: Said) -> bool:
    """Whether a row with a person's patient id is somebody else's all the same.

    Names and birth dates decide; with a contact in common, one of them may have been corrected. Where no name
    agrees, or in one list only a family's, two addresses or two numbers are two people's: nothing else says that
    one id means one person.
    """
    if person.identity.contradicts(said.identity):
        return not (person.shares_a_contact(said) and person.identity.is_corrected_by(said.identity))
    if {person.identity.title, said.identity.title} == {"m", "f"}:
        return True
    if person.identity.shares_a_name(said.identity) and not _may_be_a_couple(person, said):
        return False
    compared = []
    for channel in Channel:
        mine = {contact for contact in person.contacts if contact[0] == channel}
        theirs = {contact for contact in said.contacts if contact[0] == channel}
        if mine and theirs:
            compared.append(mine.isdisjoint(theirs))
    return bool(compared) and all(compared)


def _may_be_a_couple(person: Person, said: Said) -> bool:
    """Whether one word is all that two rows of one list have for a name. In a later list it is one person with
    another contact."""
    names = (person.identity.last_name or "", said.identity.last_name or "")
    is_family = person.identity.is_a_family and said.identity.is_a_family
    return is_family and not person.is_earlier and all(" " not in name for name in names)


def _other_national(person: Person, said: Said) -> bool:
    return None not in (person.national, said.keys.national) and person.national != said.keys.national


def _one_without_id(person: Person, said: Said) -> bool:
    """Whether the patient ids cannot speak against it: one has none, or they are the same."""
    mine, theirs = _folded_id(person.identity), _folded_id(said.identity)
    return mine is None or theirs is None or mine == theirs


class Seen:
    """Which keys may have been seen before, in 32 MB at most: never misses one, and is seldom wrong the other way.

    One bit of 64 for each of the keys `expected`: so 1 in 64 at most is taken for one seen before, which costs
    time, nothing else. More bits than a list needs would cost a short one more than its own rows: memory that is
    touched for the first time is slow.
    """

    _FEWEST, _MOST = 15, 28

    def __init__(self, expected: int) -> None:
        bits = min(max((expected * 64).bit_length(), self._FEWEST), self._MOST)
        self._mask = (1 << bits) - 1
        self._bits = bytearray(1 << (bits - 3))

    def add(self, key: int) -> bool:
        """Adds evenly spread bits (28 at most are used); whether they may have been added before."""
        bits = self._bits
        place = key & self._mask
        bit = 1 << (place & 7)
        place >>= 3
        if bits[place] & bit:
            return True
        bits[place] |= bit
        return False
