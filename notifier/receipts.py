"""Step 6: a provider's receipt is checked, stored raw, answered at once, and applied later in any order.

The address a provider calls carries our signed reference of one delivery, so a forged receipt is refused
without a look into the database, and a genuine one finds its row even if our own write never happened.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

from sqlalchemy import text
from sqlalchemy.orm import Session

from notifier.errors import InputError, NotFoundError
from notifier.models import Campaign, Delivery
from notifier.providers.base import Event, Receipt, ReceiptParser
from notifier.schedule import Rules, after_receipt
from notifier.sealing import MasterKey
from notifier.states import Channel, sources
from notifier.states import Delivery as DeliveryState

MAX_BODY_BYTES = 64 * 1024
#: one message has a handful of events, also when they come together
MAX_EVENTS = 50
#: no receipt is older than this product, and clocks differ by minutes, not days
_OLDEST = datetime(2020, 1, 1, tzinfo=UTC)
_AHEAD = timedelta(days=1)


def reference(master: MasterKey, delivery_id: int) -> str:
    """The delivery's name outside: "<id>.<signature>"; the same at every try, also the Message-ID's left side.

    Everybody who sees an email sees it, so it proves nothing: see `webhook_reference`.
    """
    return f"{delivery_id}.{master.sign('delivery', str(delivery_id))}"


def webhook_reference(master: MasterKey, provider: str, delivery_id: int) -> str:
    """The last part of the address one provider reports to about one delivery; known to that provider only."""
    return f"{delivery_id}.{master.sign(f'webhook:{provider}', str(delivery_id))}"


def delivery_id(master: MasterKey, provider: str, reference: str) -> int:
    """The delivery a webhook reference names. Raises NotFoundError if we did not make it for this provider."""
    number, _, signature = reference.partition(".")
    plain = number.isascii() and number.isdigit() and len(number) < 19
    if plain and master.check(f"webhook:{provider}", number, signature):
        return int(number)
    raise NotFoundError("This address names no delivery of ours.")


def accept(
    session: Session, master: MasterKey, parser: ReceiptParser, reference: str, body: bytes, *, now: datetime
) -> int:
    """Stores what a provider sent about one delivery; returns how many events were new.

    Raises NotFoundError for a reference we did not make for this provider, InputError for a body that is too
    large, not in the provider's form, or of an impossible time. The same event again is stored once.
    """
    number = delivery_id(master, parser.name, reference)
    if len(body) > MAX_BODY_BYTES:
        raise InputError(f"A receipt is at most {MAX_BODY_BYTES} bytes long.")
    try:
        events = parser.parse_receipts(reference, body)
    except (ValueError, OverflowError, OSError) as error:
        raise InputError(f"This is not a receipt in the form of {parser.name}.") from error
    if len(events) > MAX_EVENTS:
        raise InputError(f"At most {MAX_EVENTS} events can come at once.")
    if any(not _OLDEST <= event.at <= now + _AHEAD for event in events):
        raise InputError("An event lies in an impossible past or in the future.")
    delivery = session.get(Delivery, number)
    campaign = session.get(Campaign, delivery.campaign_id) if delivery else None
    if delivery is None or campaign is None or delivery.channel != parser.channel:
        raise NotFoundError("This address names no delivery of ours.")
    sealed = master.open_data_key(campaign.data_key, campaign.id).seal(body, b"receipt.body")
    answer = session.execute(
        text(
            """
            INSERT INTO receipt (delivery_id, campaign_id, doctor_id, provider, event, code, event_at,
                                 provider_message_id, body_sealed, dedup)
            SELECT :delivery_id, :campaign_id, :doctor_id, :provider, e.event, e.code, e.at, e.message_id,
                   -- the request as it came, kept once
                   CASE WHEN e.place = 1 THEN CAST(:body AS bytea) END, e.dedup
            FROM unnest(CAST(:events AS text[]), CAST(:codes AS text[]), CAST(:ats AS timestamptz[]),
                        CAST(:message_ids AS text[]), CAST(:dedups AS bytea[]))
                WITH ORDINALITY AS e (event, code, at, message_id, dedup, place)
            ON CONFLICT (dedup) DO NOTHING
            RETURNING id
            """
        ),
        {
            "delivery_id": delivery.id,
            "campaign_id": delivery.campaign_id,
            "doctor_id": delivery.doctor_id,
            "provider": parser.name,
            "body": sealed,
            "events": [str(event.event) for event in events],
            "codes": [event.code for event in events],
            "ats": [event.at for event in events],
            "message_ids": [event.provider_message_id for event in events],
            "dedups": [_dedup(parser.name, number, event) for event in events],
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
    SELECT d.id, d.state, d.tries, d.receipt_at, d.channel
    FROM delivery d WHERE d.id = ANY(:ids) ORDER BY d.id FOR UPDATE
    """
)

#: A receipt belongs to an earlier hand-over if its message id is known from one that is not the last.
_EVENTS = text(
    """
    SELECT r.id, r.delivery_id, r.event, r.event_at,
           NOT EXISTS (
               SELECT FROM attempt a
               WHERE a.delivery_id = r.delivery_id AND a.provider_message_id = r.provider_message_id
                 AND a.fence < (SELECT max(fence) FROM attempt a2 WHERE a2.delivery_id = r.delivery_id)
           ) AS of_latest
    FROM receipt r WHERE r.id = ANY(:ids) ORDER BY r.event_at, r.id
    """
)

_MOVE = text(
    """
    UPDATE delivery SET state = :state, due_at = :due_at, receipt_at = :receipt_at, reason = :reason,
        lease_owner = NULL, lease_until = NULL
    WHERE id = :id AND state = ANY(:sources)
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
    waiting = session.execute(_UNAPPLIED, {"limit": limit}).all()
    if not waiting:
        return 0
    rows = session.execute(_LOCK, {"ids": sorted({row.delivery_id for row in waiting})}).all()
    state = {row.id: DeliveryState(row.state) for row in rows}
    last = {row.id: row.receipt_at for row in rows}
    static = {row.id: (Channel(row.channel), row.tries) for row in rows}
    effects: list[tuple[int, str]] = []
    for event in session.execute(_EVENTS, {"ids": [row.id for row in waiting]}):
        channel, tries = static[event.delivery_id]
        step = after_receipt(
            Event(event.event),
            event_at=event.event_at,
            state=state[event.delivery_id],
            last_event_at=last[event.delivery_id],
            of_latest_attempt=event.of_latest,
            rules=rules_of(channel),
            tries=tries,
            now=now,
        )
        effect = "nothing"
        if step is not None:
            moved = session.execute(
                _MOVE,
                {
                    "id": event.delivery_id,
                    "state": step.state,
                    "due_at": step.due_at,
                    "receipt_at": event.event_at,
                    "reason": f"receipt_{event.event}",
                    "sources": sources(step.state),
                },
            )
            if moved.rowcount:  # type: ignore[attr-defined]  # a CursorResult, as for every UPDATE
                state[event.delivery_id], last[event.delivery_id] = step.state, event.event_at
                effect = str(step.state)
        effects.append((event.id, effect))
    _mark(session, effects, now)
    return len(effects)


def _mark(session: Session, effects: Sequence[tuple[int, str]], now: datetime) -> None:
    session.execute(
        _APPLIED,
        {"ids": [number for number, _ in effects], "effects": [effect for _, effect in effects], "now": now},
    )
