"""Holds the rehearsal servers' own counts and the product's outcomes against the truth of a made-up incident.

Who a message is for is read from the message itself: the doctor's name (or, failing that, the practice's phone),
and the people it names. Nothing the product says about a message is believed here.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from notifier.rehearsal.incidents import Person, Truth
from notifier.states import Channel, Outcome

#: how many single cases of each kind the answer lists
MAX_DETAILS = 50
#: what the product may call a row that was merged into an earlier row of the same person
MERGED = "merged"

_WORD = re.compile(r"[a-z0-9]+")
_PHONE = re.compile(r"(?<!\d)0\d(?:[\s.\-]?\d\d){4}(?!\d)")


@dataclass(slots=True)
class _Findings:
    received: dict[str, int] = field(default_factory=lambda: {channel.value: 0 for channel in Channel})
    duplicates: list[dict[str, Any]] = field(default_factory=list)
    wrong_person: list[dict[str, Any]] = field(default_factory=list)
    lost: list[dict[str, Any]] = field(default_factory=list)
    missed: list[dict[str, Any]] = field(default_factory=list)


def judge(
    truth: Truth, messages: Iterable[Mapping[str, Any]], outcomes: Iterable[Mapping[str, Any]]
) -> dict[str, Any]:
    """What happened to the people of an incident.

    `messages` as `main.fetch_messages` or `ledger.read_journal` give them, in the order of arrival. `outcomes` are
    the product's: one {"doctor", "row", "outcome", "reason"} for each patient, the row as a spreadsheet counts;
    rows merged into another may be left out, or have the outcome "merged".

    - `received`: messages taken, per channel, bounced SMS included.
    - `duplicates`: messages that reached people who had all been told at that contact before. A retry after a
      bounce is none.
    - `wrong_person`: messages at a contact that belongs to nobody of that doctor who is to be told, messages that
      name somebody else, and messages that name no known doctor.
    - `lost`: people without any outcome, and people called informed whom no message reached.
    - `missed`: people called unreached though the list holds a contact that works. Faults of single tries can
      bring that about, so it is to be looked at and is not by itself a defect.
    - `details`: at most `MAX_DETAILS` of each, by doctor, row and message number; never a contact or a name.
    """
    found = _Findings()
    reached = _judge_messages(truth, messages, found)
    _judge_outcomes(truth, outcomes, reached, found)
    kinds = ("duplicates", "wrong_person", "lost", "missed")
    return {
        "received": found.received,
        **{kind: len(getattr(found, kind)) for kind in kinds},
        "details": {kind: getattr(found, kind)[:MAX_DETAILS] for kind in kinds},
    }


def _judge_messages(truth: Truth, messages: Iterable[Mapping[str, Any]], found: _Findings) -> set[int]:
    """The identities (`id`) of everybody whom a message reached."""
    allowed, names = truth.allowed(), _Names(truth)
    told: dict[tuple[str, Channel, str], set[int]] = {}
    ids: set[tuple[tuple[str, Channel, str], str]] = set()
    reached: set[int] = set()
    for message in messages:
        channel = Channel(message["channel"])
        found.received[channel] += 1
        doctor, named = names.read(f"{message['subject']}\n{message['text']}")
        place = (doctor or "", channel, _contact(channel, message["contact"]))
        people = allowed.get(place, [])
        addressed = [person for person in people if not named or any(person is one for one in named)]
        why = _why_wrong(doctor, people, addressed, bool(named))
        if why:
            found.wrong_person.append({"message": message["number"], "channel": channel.value, "why": why})
            continue
        if not message["arrived"]:
            continue
        before = told.setdefault(place, set())
        now = {id(person) for person in addressed}
        if named and len({(person.first, person.last) for person in addressed}) == 1:
            # Namesakes at one mailbox: each message is for one of them, for another one than the last.
            now = set(sorted(now - before or now)[:1])
        same_id = bool(message["message_id"]) and (place, message["message_id"]) in ids
        ids.add((place, message["message_id"]))
        if same_id or now <= before or (channel is Channel.SMS and before):
            rows = sorted(person.rows[0] for person in addressed)
            found.duplicates.append(
                {"message": message["number"], "channel": channel.value, "doctor": doctor, "rows": rows}
            )
        else:
            reached |= now
            before |= now
    return reached


def _why_wrong(doctor: str | None, people: list[Person], addressed: list[Person], names_somebody: bool) -> str:
    if doctor is None:
        return "names no known doctor"
    if not people:
        return "a contact of nobody who is to be told"
    return "names somebody else" if names_somebody and not addressed else ""


def _judge_outcomes(
    truth: Truth, outcomes: Iterable[Mapping[str, Any]], reached: set[int], found: _Findings
) -> None:
    given = {(one["doctor"], int(one["row"])): str(one["outcome"]) for one in outcomes if one["outcome"] != MERGED}
    for person in truth.people:
        place = {"doctor": person.doctor, "row": person.rows[0]}
        said = {given[person.doctor, row] for row in person.rows if (person.doctor, row) in given}
        if not said:
            found.lost.append({**place, "why": "no outcome"})
        elif Outcome.INFORMED in said and id(person) not in reached:
            found.lost.append({**place, "why": "called informed, but nothing arrived"})
        elif Outcome.UNREACHED in said and person.must_be_tried and person.reachable and id(person) not in reached:
            found.missed.append({**place, "why": "unreached, though a contact works"})


class _Names:
    """Finds doctors and people in a text by their full names, whatever accents, capitals and order."""

    def __init__(self, truth: Truth) -> None:
        self._doctors: dict[tuple[str, ...], str] = {}
        self._phones: dict[str, str] = {}
        self._people: dict[tuple[str, ...], list[Person]] = {}
        for doctor in truth.doctors:
            self._doctors[tuple(_words(doctor["name"].removeprefix("Dr ")))] = doctor["reference"]
            self._phones[re.sub(r"\D", "", doctor["phone"])] = doctor["reference"]
        for person in truth.people:
            for order in ((person.first, person.last), (person.last, person.first)):
                self._people.setdefault(tuple(_words(" ".join(order))), []).append(person)
        every = (*self._doctors, *self._people)
        self._longest = max(map(len, every), default=0)
        self._first_words = {name[0] for name in every}

    def read(self, text: str) -> tuple[str | None, list[Person]]:
        """The doctor's reference, and everybody who may be meant by the names in the text."""
        doctor: str | None = None
        named: list[Person] = []
        for name in self._names_in(_words(text)):
            doctor = doctor or self._doctors.get(name)
            named += self._people.get(name, [])
        for phone in _PHONE.findall(text) if doctor is None else ():
            doctor = doctor or self._phones.get(re.sub(r"\D", "", phone))
        return doctor, named

    def _names_in(self, words: Sequence[str]) -> Iterator[tuple[str, ...]]:
        """Longest first and without overlap: "Jean-Pierre Dupont" does not name Pierre Dupont."""
        start = 0
        while start < len(words):
            step = 1
            if words[start] in self._first_words:
                for length in range(min(self._longest, len(words) - start), 1, -1):
                    name = tuple(words[start : start + length])
                    if name in self._doctors or name in self._people:
                        yield name
                        step = length
                        break
            start += step


def _words(text: str) -> list[str]:
    plain = unicodedata.normalize("NFKD", text.replace("œ", "oe").replace("Œ", "oe"))
    return _WORD.findall("".join(sign for sign in plain if not unicodedata.combining(sign)).casefold())


def _contact(channel: Channel, contact: str) -> str:
    return f"+{contact.removeprefix('+')}" if channel is Channel.SMS else contact.lower()
