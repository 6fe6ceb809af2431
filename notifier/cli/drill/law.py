"""The law of every drill, held against the servers' own count once an incident is over. Pure: facts in, faults
out.

Every patient ends in a true state; each hand-over we called accepted was taken once; nobody gets a second message
that was not declared as possible; nobody is told someone else's business; the numbers add up; the queue is clean.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from notifier.providers.base import Kind
from notifier.states import Delivery, Outcome

_PLACES = ("merged", *map(str, Outcome))
#: states in which a delivery still wants something
_OPEN = frozenset({Delivery.PENDING, Delivery.SENDING, Delivery.UNKNOWN})
#: reasons that end a delivery although its contact may work: in doubt twice, or set aside for a person
EXCUSED = ("uncertain_twice", "worker_crashed")
#: what says that a provider's module failed, not the provider
_OUR_BUG = "provider_raised"
#: a delivery that was sent once more after a quiet time; never a third time
_MOST_DECLARED = 2


class Row(NamedTuple):
    """One delivery as we left it."""

    id: int
    state: str
    possibly_twice: bool


class Try(NamedTuple):
    """One hand-over as we wrote it down; `outcome` None is one that nobody closed."""

    delivery: int
    outcome: str | None
    code: str | None


@dataclass(frozen=True, slots=True)
class Facts:
    """What both sides say after an incident."""

    #: `store.outcome_counts` of each campaign
    numbers: Sequence[Mapping[str, int]]
    #: the product's word on each patient: outcome and reason
    outcomes: Sequence[Mapping[str, Any]]
    deliveries: Sequence[Row]
    attempts: Sequence[Try]
    #: what the servers took, as they counted it themselves
    messages: Sequence[Mapping[str, Any]]
    #: people unreached of whom a delivery ended for a reason in EXCUSED
    excused: int
    #: hand-overs the servers were asked for, whatever became of them
    asked: int
    #: the people told, lost and confused, as `judging.judge` finds them from the messages alone
    verdict: Mapping[str, Any]
    #: messages found in delay queues and among dead letters, at any look
    queue: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Judged:
    """What came of one incident; `broken` says in words what of the law does not hold."""

    lost: int
    wrong_person: int
    undeclared_duplicates: int
    #: deliveries of which some hand-over ended in doubt
    declared_unknown: int
    broken: tuple[str, ...]


def judge(facts: Facts) -> Judged:
    """Holds the facts against the law."""
    waiting = sum(counts[Outcome.ON_THE_WAY] for counts in facts.numbers)
    lost = facts.verdict["lost"] + waiting
    twice = undeclared(facts)
    unknown = {one.delivery for one in facts.attempts if one.outcome == Kind.UNKNOWN}
    broken = [
        *_each(lost, "people lost or still on the way"),
        *_each(facts.verdict["wrong_person"], "messages at a wrong person"),
        *_each(len(twice), "second messages that nobody declared"),
        *_sums(facts),
        *_counts(facts),
        *[f"{name}: {number} left" for name, number in facts.queue.items() if number],
    ]
    return Judged(lost, facts.verdict["wrong_person"], len(twice), len(unknown), tuple(broken))


def undeclared(facts: Facts) -> set[int]:
    """Numbers of messages that reached people once more although the delivery does not say "possibly twice"."""
    declared = {row.id for row in facts.deliveries if row.possibly_twice}
    of = {message["number"]: delivery_of(message) for message in facts.messages}
    found = {one["message"] for one in facts.verdict["details"]["duplicates"]}
    seen: set[int] = set()
    for message in facts.messages:
        delivery = of[message["number"]]
        if not message["arrived"] or delivery is None:
            continue
        if delivery in seen:
            found.add(message["number"])
        seen.add(delivery)
    return {number for number in found if of[number] not in declared}


def delivery_of(message: Mapping[str, Any]) -> int | None:
    """The delivery a message names by its reference, "<id>.<signature>"; None if it names none."""
    number = str(message["reference"]).partition(".")[0]
    return int(number) if number.isascii() and number.isdigit() else None


def _sums(facts: Facts) -> list[str]:
    """What our own tables must say of themselves."""
    wrong_sums = sum(counts["imported"] != sum(counts[place] for place in _PLACES) for counts in facts.numbers)
    stand = Counter(one["outcome"] for one in facts.outcomes)
    miscounted = sum(abs(sum(counts[outcome] for counts in facts.numbers) - stand[outcome]) for outcome in Outcome)
    no_reason = sum(one["outcome"] == Outcome.UNREACHED and not one["reason"] for one in facts.outcomes)
    still_open = Counter(row.state for row in facts.deliveries if row.state in _OPEN)
    never_closed = sum(one.outcome is None for one in facts.attempts)
    our_bugs = sum(one.code == _OUR_BUG for one in facts.attempts)
    return [
        *_each(wrong_sums, "campaigns whose numbers do not add up"),
        *_each(miscounted, "people whom the kept counts place elsewhere than their rows do"),
        *_each(no_reason, "people unreached without a reason"),
        *[f"{number} deliveries still {state}" for state, number in sorted(still_open.items())],
        *_each(never_closed, "attempts that nobody closed"),
        *_each(our_bugs, "attempts that ended by a bug of ours"),
        *_each(max(facts.verdict["missed"] - facts.excused, 0), "people called unreached though a contact works"),
    ]


def _counts(facts: Facts) -> list[str]:
    """The servers' count and ours: each accepted hand-over was taken, each taken one was accepted or in doubt."""
    known = {row.id for row in facts.deliveries}
    taken: Counter[int] = Counter()
    arrived: Counter[int] = Counter()
    strangers = 0
    for message in facts.messages:
        delivery = delivery_of(message)
        if delivery is None or delivery not in known:
            strangers += 1
            continue
        taken[delivery] += 1
        arrived[delivery] += bool(message["arrived"])
    ours: defaultdict[int, Counter[str]] = defaultdict(Counter)
    for one in facts.attempts:
        ours[one.delivery][one.outcome or Kind.UNKNOWN] += 1
    too_few = sum(taken[id_] < kinds[Kind.ACCEPTED] for id_, kinds in ours.items())
    too_many = sum(number > ours[id_][Kind.ACCEPTED] + ours[id_][Kind.UNKNOWN] for id_, number in taken.items())
    unfounded = sum(
        row.state in (Delivery.ACCEPTED, Delivery.DELIVERED) and not arrived[row.id] for row in facts.deliveries
    )
    return [
        *_each(strangers, "messages of no delivery of ours"),
        *_each(too_few, "deliveries called accepted more often than the servers took them"),
        *_each(too_many, "deliveries taken more often than our attempts say"),
        *_each(unfounded, "deliveries called accepted or delivered of which nothing arrived"),
        *_each(sum(n > _MOST_DECLARED for n in arrived.values()), "deliveries that arrived a third time"),
        *_each(
            max(facts.asked - len(facts.attempts), 0), "hand-overs the servers saw and no attempt was written for"
        ),
    ]


def _each(number: int, what: str) -> list[str]:
    return [f"{number} {what}"] if number else []
