"""Step 6: a provider's receipt is checked, stored raw, answered at once, and applied later in any order.

Two ways lead in. An address of one delivery carries our signed reference, so a forged receipt is refused without
a look into the database. A report about a whole account is proved by a token; each of its events names its
delivery by the reference the message carried. Either finds its row even if our own write never happened.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TypeVar

from sqlalchemy import Row, text
from sqlalchemy.orm import Session

from notifier import store, tracing
from notifier.errors import InputError, NotFoundError
from notifier.providers.base import AccountReceiptParser, Event, Receipt, ReceiptParser
from notifier.schedule import Rules, after_receipt
from notifier.sealing import DataKey, MasterKey
from notifier.states import Channel, sources
from notifier.states import Delivery as DeliveryState
from notifier.tracing import Operation

T = TypeVar("T")

MAX_BODY_BYTES = 64 * 1024
#: one message has a handful of events, also when they come together
MAX_EVENTS = 50
#: of a report about an account: Brevo sends up to 500 events at once (batched webhooks, read 2026-11-25)
MAX_REPORT_BYTES = 1024 * 1024
MAX_REPORT_EVENTS = 1000
#: no receipt is older than this product, and clocks differ by minutes, not days
_OLDEST = datetime(2020, 1, 1, tzinfo=UTC)
_AHEAD = timedelta(days=1)


#: in place of a delivery's id: a test message, whose reports change nothing
TEST = 0


class Left(StrEnum):
    """Why an event of a report is not stored."""

    #: it names its message by the provider's own id, or not at all
    UNNAMED = "unnamed"
    #: of other mail of the account, or of a delivery there is no longer
    NOT_OURS = "not_ours"
    #: a provider of one channel says nothing about another
    OTHER_CHANNEL = "other_channel"
    IMPOSSIBLE_TIME = "impossible_time"
    #: its people have been erased
    ERASED = "erased"


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of a report: events that were new, and those that were left, by the reason."""

    new: int
    left: Counter[Left]


#: id, channel, campaign_id, doctor_id, data_key
_Delivery = Row[tuple[int, str, int, int, bytes | None]]


@dataclass(frozen=True, slots=True)
class _Entry:
    """One receipt as it is to be stored."""

    delivery: _Delivery
    event: Receipt
    #: the raw form, sealed
    body: bytes | None


def reference(key: DataKey, delivery_id: int) -> str:
    """The delivery's name outside: "<id>.<signature>"; the same at every try, also the Message-ID's left side.

    Signed by the campaign's own key: a provider knows a request again by this name, also after the master key
    was changed. Everybody who sees an email sees it, so it proves nothing: see `webhook_reference`.
    """
    return f"{delivery_id}.{key.sign(str(delivery_id))}"


def webhook_reference(master: MasterKey, provider: str, delivery_id: int) -> str:
    """The last part of the address one provider reports to about one delivery; known to that provider only."""
    return f"{delivery_id}.{master.sign(f'webhook:{provider}', str(delivery_id))}"


def delivery_id(master: MasterKey, provider: str, reference: str) -> int:
    """The delivery a webhook reference names. Raises NotFoundError if we did not make it for this provider."""
    number, signature = _parts(reference)
    if number is None or not master.check(f"webhook:{provider}", str(number), signature):
        raise NotFoundError("This address names no delivery of ours.")
    return number


def accept(
    session: Session, master: MasterKey, parser: ReceiptParser, reference: str, body: bytes, *, now: datetime
) -> int:
    """Stores what a provider sent about one delivery; returns how many events were new.

    Raises NotFoundError for a reference we did not make for this provider, InputError for a body that is too
    large, not in the provider's form, or of an impossible time. The same event again is stored once.
    """
    number = delivery_id(master, parser.name, reference)
    if number == TEST:
        return 0
    events = _parsed(parser.name, lambda: parser.parse_receipts(reference, body), body, MAX_BODY_BYTES, MAX_EVENTS)
    if not all(_is_possible(event.at, now) for event in events):
        raise InputError("An event lies in an impossible past or in the future.")
    delivery = _found(session, [number]).get(number)
    if delivery is None or delivery.channel != parser.channel:
        raise NotFoundError("This address names no delivery of ours.")
    sealed = master.open_data_key(delivery.data_key, delivery.campaign_id).seal(body, b"receipt.body")
    # The request as it came is kept once, with its first event.
    entries = [_Entry(delivery, event, None if place else sealed) for place, event in enumerate(events)]
    return _store(session, parser.name, entries)


def accept_report(
    session: Session, master: MasterKey, parser: AccountReceiptParser, body: bytes, *, now: datetime
) -> Taken:
    """Stores what a provider reported about its account. That it came from the provider (`verify`) is the
    caller's to prove: the reference of an event says only which delivery it is about.

    Each event is kept alone, under its own campaign's key: those beside it are about other doctors' patients.
    One that cannot be used stops none of the others. Raises InputError for a body that is too large or not in
    the provider's form. The same event again is stored once.
    """
    events = _parsed(parser.name, lambda: parser.parse_events(body), body, MAX_REPORT_BYTES, MAX_REPORT_EVENTS)
    numbers = {event.reference: _parts(event.reference)[0] for event, _ in events}
    found = _found(session, {number for number in numbers.values() if number is not None})
    keys = {
        delivery.campaign_id: master.open_data_key(delivery.data_key, delivery.campaign_id)
        for delivery in {one.campaign_id: one for one in found.values() if one.data_key is not None}.values()
    }
    entries: list[_Entry] = []
    left: Counter[Left] = Counter()
    for event, raw in events:
        delivery = found.get(numbers[event.reference] or 0)
        key = keys.get(delivery.campaign_id) if delivery is not None else None
        entry = _entry(key, parser.channel, delivery, event, raw, now)
        if isinstance(entry, Left):
            left[entry] += 1
        else:
            entries.append(entry)
    return Taken(_store(session, parser.name, entries), left)


def _entry(
    key: DataKey | None, channel: Channel, delivery: _Delivery | None, event: Receipt, raw: bytes, now: datetime
) -> _Entry | Left:
    if not event.reference:
        return Left.UNNAMED
    if delivery is None:
        return Left.NOT_OURS
    if key is None:
        # What proved its reference is gone with the people.
        return Left.ERASED
    if not key.check(str(delivery.id), _parts(event.reference)[1]):
        return Left.NOT_OURS
    if delivery.channel != channel:
        return Left.OTHER_CHANNEL
    if not _is_possible(event.at, now):
        return Left.IMPOSSIBLE_TIME
    return _Entry(delivery, event, key.seal(raw, b"receipt.body"))


def _parts(reference: str) -> tuple[int | None, str]:
    """Number and signature of "<id>.<signature>"; no number in what we cannot have made."""
    number, _, signature = reference.partition(".")
    plain = number.isascii() and number.isdigit() and len(number) < 19 and str(int(number)) == number
    return (int(number) if plain else None), signature


def _parsed(
    provider: str, parse: Callable[[], Sequence[T]], body: bytes, most_bytes: int, most: int
) -> Sequence[T]:
    if len(body) > most_bytes:
        raise InputError(f"A receipt is at most {most_bytes} bytes long.")
    try:
        events = parse()
    except (ValueError, OverflowError, OSError) as error:
        raise InputError(f"This is not a receipt in the form of {provider}.") from error
    if len(events) > most:
        raise InputError(f"At most {most} events can come at once.")
    return events


def _is_possible(at: datetime, now: datetime) -> bool:
    return _OLDEST <= at <= now + _AHEAD


def _found(session: Session, numbers: Collection[int]) -> dict[int, _Delivery]:
    """The deliveries of these numbers that there are."""
    rows = session.execute(
        text(
            """
            SELECT d.id, d.channel, d.campaign_id, d.doctor_id, c.data_key
            FROM delivery d JOIN campaign c ON c.id = d.campaign_id WHERE d.id = ANY(:ids)
            """
        ),
        {"ids": list(numbers)},
    )
    return {row.id: row for row in rows}


def _store(session: Session, provider: str, entries: Sequence[_Entry]) -> int:
    """Writes those that are new, in one statement; returns how many."""
    answer = session.execute(
        text(
            """
            INSERT INTO receipt (delivery_id, campaign_id, doctor_id, provider, event, code, event_at,
                                 provider_message_id, body_sealed, dedup)
            SELECT e.delivery_id, e.campaign_id, e.doctor_id, :provider, e.event, e.code, e.at, e.message_id,
                   e.body, e.dedup
            FROM unnest(CAST(:deliveries AS bigint[]), CAST(:campaigns AS bigint[]), CAST(:doctors AS bigint[]),
                        CAST(:events AS text[]), CAST(:codes AS text[]), CAST(:ats AS timestamptz[]),
                        CAST(:message_ids AS text[]), CAST(:bodies AS bytea[]), CAST(:dedups AS bytea[]))
                AS e (delivery_id, campaign_id, doctor_id, event, code, at, message_id, body, dedup)
            -- one order for all: two requests with the same events never wait for each other
            ORDER BY e.dedup
            ON CONFLICT (dedup) DO NOTHING
            RETURNING id
            """
        ),
        {
            "provider": provider,
            "deliveries": [entry.delivery.id for entry in entries],
            "campaigns": [entry.delivery.campaign_id for entry in entries],
            "doctors": [entry.delivery.doctor_id for entry in entries],
            "events": [str(entry.event.event) for entry in entries],
            "codes": [entry.event.code for entry in entries],
            "ats": [entry.event.at for entry in entries],
            "message_ids": [entry.event.provider_message_id for entry in entries],
            "bodies": [entry.body for entry in entries],
            "dedups": [_dedup(provider, entry.delivery.id, entry.event) for entry in entries],
        },
    )
    return len(answer.all())


def _dedup(provider: str, delivery: int, event: Receipt) -> bytes:
    parts = (provider, str(delivery), event.provider_message_id or "", event.code, event.at.isoformat())
    return hashlib.sha256("\0".join(parts).encode()).digest()


_UNAPPLIED = text(
    """
    SELECT id, delivery_id FROM receipt WHERE applied_at IS NULL
    ORDER BY id LIMIT :limit FOR UPDATE SKIP LOCKED
    """
)

#: With the row locked, so that a worker's write and ours follow one another.
_LOCK = text(
    """
    SELECT d.id, d.state, d.tries, d.receipt_at, d.channel, d.campaign_id
    FROM delivery d WHERE d.id = ANY(:ids) ORDER BY d.id FOR UPDATE
    """
)

#: A receipt belongs to an earlier hand-over if its message id is known from one that is not the last; or if the
#: last has another id, and an earlier one ended without telling its own. Where the last has told none either, it
#: may be about both: what follows is then declared.
_EVENTS = text(
    """
    SELECT r.id, r.delivery_id, r.event, r.event_at,
           NOT EXISTS (
               SELECT FROM attempt a
               WHERE a.delivery_id = r.delivery_id AND a.fence < last.fence
                 AND a.provider_message_id = r.provider_message_id
           ) AND (coalesce(last.provider_message_id = r.provider_message_id, true) OR NOT earlier.is_nameless)
               AS of_latest,
           earlier.is_nameless AND last.provider_message_id IS DISTINCT FROM r.provider_message_id AS in_doubt
    FROM receipt r
    LEFT JOIN LATERAL (
        SELECT fence, provider_message_id FROM attempt a
        WHERE a.delivery_id = r.delivery_id ORDER BY fence DESC LIMIT 1
    ) last ON true
    CROSS JOIN LATERAL (
        SELECT EXISTS (
            SELECT FROM attempt a
            WHERE a.delivery_id = r.delivery_id AND a.fence < last.fence
              AND a.outcome = 'unknown' AND a.provider_message_id IS NULL
        ) AS is_nameless
    ) earlier
    WHERE r.id = ANY(:ids) ORDER BY r.event_at, r.id
    """
)

_MOVE = text(
    """
    UPDATE delivery d SET state = m.state, due_at = m.due_at, receipt_at = m.receipt_at, reason = m.reason,
        possibly_twice = d.possibly_twice OR m.possibly_twice
    FROM unnest(CAST(:ids AS bigint[]), CAST(:states AS text[]), CAST(:due_ats AS timestamptz[]),
                CAST(:receipt_ats AS timestamptz[]), CAST(:reasons AS text[]), CAST(:doubts AS boolean[]))
        AS m (id, state, due_at, receipt_at, reason, possibly_twice)
    WHERE d.id = m.id
    """
)

_APPLIED = text(
    """
    UPDATE receipt r SET applied_at = :now, effect = e.effect
    FROM unnest(CAST(:ids AS bigint[]), CAST(:effects AS text[])) AS e (id, effect) WHERE r.id = e.id
    """
)


def apply(session: Session, rules_of: Callable[[Channel], Rules], *, now: datetime, limit: int = 500) -> int:
    """Applies stored receipts that were not yet; returns how many were looked at."""
    began = time.time_ns()
    waiting = session.execute(_UNAPPLIED, {"limit": limit}).all()
    if not waiting:
        return 0
    rows = session.execute(_LOCK, {"ids": sorted({row.delivery_id for row in waiting})}).all()
    held = {
        row.id: _Held(Channel(row.channel), row.tries, DeliveryState(row.state), row.receipt_at) for row in rows
    }
    effects: list[tuple[int, str]] = []
    retried: list[int] = []
    for event in session.execute(_EVENTS, {"ids": [row.id for row in waiting]}):
        delivery = held[event.delivery_id]
        step = after_receipt(
            Event(event.event),
            event_at=event.event_at,
            state=delivery.state,
            last_event_at=delivery.receipt_at,
            of_latest_attempt=event.of_latest,
            rules=rules_of(delivery.channel),
            tries=delivery.tries,
            now=now,
        )
        if step is None or delivery.state not in sources(step.state):
            effects.append((event.id, "nothing"))
            continue
        delivery.state, delivery.due_at = step.state, step.due_at
        delivery.receipt_at, delivery.reason = event.event_at, f"receipt_{event.event}"
        if step.state is DeliveryState.PENDING:
            delivery.possibly_twice |= event.in_doubt
            retried.append(event.delivery_id)
        effects.append((event.id, str(step.state)))
    _move(session, {number: delivery for number, delivery in held.items() if delivery.reason})
    if retried:
        store.doubt_informed(session, retried, now=now)
    _mark(session, effects, now)
    if tracing.is_on():
        campaigns = {row.id: row.campaign_id for row in rows}
        _trace(Counter(campaigns[row.delivery_id] for row in waiting), began)
    return len(effects)


def _trace(applied: Counter[int], began_ns: int) -> None:
    """One span for each campaign that the batch is about, in that campaign's trace."""
    for campaign_id, receipts in applied.items():
        span = tracing.span(
            "apply",
            campaign_id,
            Operation.PROCESS,
            system="patient_notifier",
            destination="receipt",
            started_ns=began_ns,
        )
        span.messages(receipts)
        span.end()


@dataclass(slots=True)
class _Held:
    """A delivery whose row is locked, as its receipts change it one after the other."""

    channel: Channel
    tries: int
    state: DeliveryState
    receipt_at: datetime | None
    due_at: datetime | None = None
    #: "" until a receipt has moved it
    reason: str = ""
    possibly_twice: bool = False


def _move(session: Session, moved: Mapping[int, _Held]) -> None:
    """Writes where each ended, in one statement."""
    session.execute(
        _MOVE,
        {
            "ids": list(moved),
            "states": [str(delivery.state) for delivery in moved.values()],
            "due_ats": [delivery.due_at for delivery in moved.values()],
            "receipt_ats": [delivery.receipt_at for delivery in moved.values()],
            "reasons": [delivery.reason for delivery in moved.values()],
            "doubts": [delivery.possibly_twice for delivery in moved.values()],
        },
    )


def _mark(session: Session, effects: Sequence[tuple[int, str]], now: datetime) -> None:
    session.execute(
        _APPLIED,
        {"ids": [number for number, _ in effects], "effects": [effect for _, effect in effects], "now": now},
    )
