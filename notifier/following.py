"""From a campaign down to one delivery's whole life, without whom it is for; and the one look that says it.

For operations: what is read here goes through the deliveries of one campaign at most, in pages by their numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Row, Select, func, or_, select, text
from sqlalchemy.orm import Session

from notifier import store
from notifier.errors import InputError, NotFoundError
from notifier.models import (
    Attempt,
    Campaign,
    Contact,
    Delivery,
    DeliveryPatient,
    Doctor,
    Journal,
    Patient,
    Receipt,
    Tally,
)
from notifier.sealing import MasterKey
from notifier.states import Campaign as State
from notifier.states import Delivery as DeliveryState

PAGE = 50
#: failed deliveries of one campaign that are looked at to tell their codes
MOST_FAILED = 5_000
_JOURNAL = 20
#: what a person did with chosen deliveries: the journal names the first hundred
_ACTS_ON_DELIVERIES = ("delivery.replay", "quarantine.release", "quarantine.give_up")

#: Counts come from `tally`, for the campaigns of the page alone, by ix_tally_campaign.
_CAMPAIGNS = text(
    f"""
    SELECT c.id, c.state, c.reason, c.started_at, c.completed_at, d.reference AS doctor, i.reference AS incident,
           t.total, t.waiting, t.failed, t.set_aside
    FROM campaign c JOIN doctor d ON d.id = c.doctor_id JOIN incident i ON i.id = c.incident_id
    CROSS JOIN LATERAL (
        SELECT coalesce(sum(n), 0) AS total,
               coalesce(sum(n) FILTER (WHERE state = '{DeliveryState.FAILED}'), 0) AS failed,
               coalesce(sum(n) FILTER (WHERE state = '{DeliveryState.QUARANTINED}'), 0) AS set_aside,
               coalesce(sum(n) FILTER (WHERE state IN (
                   '{DeliveryState.PENDING}', '{DeliveryState.SENDING}', '{DeliveryState.UNKNOWN}'
               )), 0) AS waiting
        FROM tally WHERE campaign_id = c.id
    ) t
    WHERE c.id > :after AND (CAST(:state AS text) IS NULL OR c.state = :state)
      AND (CAST(:doctor AS text) IS NULL OR d.reference = :doctor)
    ORDER BY c.id LIMIT :most
    """  # noqa: S608 - put together from our own states
)
#: of a campaign with very many, the first ones stand for all
_CODES = text(
    f"""
    SELECT channel, code, count(*) AS n FROM (
        SELECT channel, coalesce(reason, '') AS code FROM delivery
        WHERE campaign_id = :campaign_id AND state = '{DeliveryState.FAILED}' ORDER BY id LIMIT :most
    ) few GROUP BY channel, code ORDER BY n DESC, channel, code
    """  # noqa: S608
)
_FAILING = text(
    f"""
    SELECT c.id, c.state, d.reference AS doctor, t.failed, t.total FROM (
        SELECT campaign_id, sum(n) AS total, sum(n) FILTER (WHERE state = '{DeliveryState.FAILED}') AS failed
        FROM tally GROUP BY campaign_id
    ) t JOIN campaign c ON c.id = t.campaign_id JOIN doctor d ON d.id = c.doctor_id
    WHERE t.failed > 0 ORDER BY t.failed DESC, c.id LIMIT :most
    """  # noqa: S608
)
#: by ix_due_send, else ix_due_sweep
#: What is to be settled is looked for where its time is: accepted messages wait for days, in hints of 500.
_HINTS = text(
    """
    SELECT kind, at, together, owner, NULL AS fence FROM due
    WHERE kind = 'send' AND campaign_id = :campaign_id AND channel = :channel AND :id = ANY(ids)
    UNION ALL
    SELECT kind, at, together, owner, fences[array_position(ids, :id)] FROM due
    WHERE kind = 'lease' AND campaign_id = :campaign_id AND :id = ANY(ids)
    UNION ALL
    SELECT kind, at, together, owner, NULL FROM due
    WHERE kind = 'settle' AND at BETWEEN :due_at AND CAST(:due_at AS timestamptz) + interval '250 milliseconds'
      AND campaign_id = :campaign_id AND :id = ANY(ids)
    ORDER BY at
    """
)
_STOPPED = text(
    """
    SELECT scope, reason FROM hold
    WHERE (until IS NULL OR until > now()) AND scope IN (
        'everything', 'channel:' || :channel, 'provider:' || :provider, 'campaign:' || CAST(:campaign_id AS bigint)
    )
    ORDER BY scope
    """
)


class Line(NamedTuple):
    """A campaign in a list."""

    id: int
    state: str
    reason: str | None
    started_at: datetime | None
    completed_at: datetime | None
    doctor: str
    incident: str
    total: int
    waiting: int
    failed: int
    set_aside: int


def campaigns(
    session: Session, *, state: State | None = None, doctor: str = "", after: int = 0, most: int = PAGE
) -> list[Line]:
    """Campaigns from the one after number `after` on, of this state and of the doctor with this reference."""
    values = {"state": state, "doctor": doctor or None, "after": after, "most": most}
    return [Line(*row[:7], *(int(n) for n in row[7:])) for row in session.execute(_CAMPAIGNS, values)]


@dataclass(frozen=True, slots=True)
class Whole:
    """A campaign as operations see it."""

    campaign: Campaign
    doctor: Doctor
    #: deliveries by channel and state
    deliveries: dict[str, dict[str, int]]
    #: failed deliveries by channel and code; of very many the first `MOST_FAILED`
    codes: Sequence[Row[Any]]
    journal: list[Journal]


def whole(session: Session, campaign_id: int) -> Whole:
    """Raises NotFoundError."""
    campaign = brief(session, campaign_id)
    counts = store.delivery_counts(session, campaign_id)
    has_failed = any(states[DeliveryState.FAILED] for states in counts.values())
    codes = session.execute(_CODES, {"campaign_id": campaign_id, "most": MOST_FAILED}).all() if has_failed else []
    of_it = select(Journal).where(Journal.subject == f"campaign:{campaign_id}")
    return Whole(
        campaign=campaign,
        doctor=session.get_one(Doctor, campaign.doctor_id),
        deliveries=counts,
        codes=codes,
        journal=list(session.scalars(of_it.order_by(Journal.id.desc()).limit(_JOURNAL))),
    )


def brief(session: Session, campaign_id: int) -> Campaign:
    """The campaign alone. Raises NotFoundError."""
    campaign = session.get(Campaign, campaign_id)
    if campaign is None:
        raise NotFoundError(f"There is no campaign {campaign_id}.")
    return campaign


def deliveries(
    session: Session,
    campaign_id: int,
    *,
    state: DeliveryState | None = None,
    code: str = "",
    after: int = 0,
    most: int = PAGE,
) -> list[Delivery]:
    """Of one campaign, after the number `after`; `tally` says if there are any."""
    if state is not None:
        counts = store.delivery_counts(session, campaign_id)
        if not any(states[state] for states in counts.values()):
            return []
    statement = select(Delivery).where(Delivery.campaign_id == campaign_id, Delivery.id > after)
    if state is not None:
        statement = statement.where(Delivery.state == state)
    if code:
        statement = statement.where(Delivery.reason == code)
    return list(session.scalars(statement.order_by(Delivery.id).limit(most)))


def set_aside(session: Session, *, after: int = 0, most: int = PAGE) -> list[Delivery]:
    """Quarantined deliveries. Only campaigns that have some are looked through: `tally` names them."""
    some: Select[Any] = (
        select(Tally.campaign_id)
        .where(Tally.state == DeliveryState.QUARANTINED)
        .group_by(Tally.campaign_id)
        .having(func.sum(Tally.n) > 0)
    )
    numbers = list(session.scalars(some))
    if not numbers:
        return []
    statement = select(Delivery).where(
        Delivery.state == DeliveryState.QUARANTINED, Delivery.campaign_id.in_(numbers), Delivery.id > after
    )
    return list(session.scalars(statement.order_by(Delivery.id).limit(most)))


def failing(session: Session, most: int = PAGE) -> Sequence[Row[Any]]:
    """Campaigns with failed deliveries, most of them first: id, state, doctor, failed, total."""
    return session.execute(_FAILING, {"most": most}).all()


class Step(NamedTuple):
    """One thing that happened to a delivery. `what` names the words for it."""

    at: datetime
    what: str
    code: str = ""
    values: dict[str, Any] = {}  # noqa: RUF012 - never changed


@dataclass(frozen=True, slots=True)
class Life:
    """A delivery from its first try to its end, and what comes next."""

    delivery: Delivery
    campaign: Campaign
    doctor: Doctor
    #: whom it informs: id, row of the list, outcome, outcome_reason
    patients: Sequence[Any]
    steps: list[Step]
    #: when it is due, or who has it in hand until when
    next: list[Step]
    #: what keeps it from going out now: scope and reason
    stopped: list[tuple[str, str]]


def life(session: Session, delivery_id: int, provider: dict[str, str]) -> Life:
    """`provider` says who carries each channel. Raises NotFoundError."""
    delivery = session.get(Delivery, delivery_id)
    if delivery is None:
        raise NotFoundError(f"There is no delivery {delivery_id}.")
    campaign = session.get_one(Campaign, delivery.campaign_id)
    stopped = holds_on(session, delivery, provider[delivery.channel])
    if waits(delivery) and campaign.state != State.SENDING:
        stopped.insert(0, (f"campaign:{campaign.id}", campaign.reason or campaign.state))
    people = (
        select(Patient.id, Patient.row, Patient.outcome, Patient.outcome_reason)
        .join(DeliveryPatient, DeliveryPatient.patient_id == Patient.id)
        .where(DeliveryPatient.delivery_id == delivery_id)
        .order_by(Patient.id)
    )
    return Life(
        delivery=delivery,
        campaign=campaign,
        doctor=session.get_one(Doctor, campaign.doctor_id),
        patients=session.execute(people).all(),
        steps=_steps(session, delivery),
        next=_next(delivery, hints(session, delivery)),
        stopped=stopped,
    )


def waits(delivery: Delivery) -> bool:
    """Whether it may still be handed over: then something can stand in its way."""
    return delivery.state in (DeliveryState.PENDING, DeliveryState.UNKNOWN)


def holds_on(session: Session, delivery: Delivery, provider: str) -> list[tuple[str, str]]:
    """Holds and limits that keep a delivery that waits from going out now: scope and reason."""
    if not waits(delivery):
        return []
    values = {"campaign_id": delivery.campaign_id, "channel": delivery.channel, "provider": provider}
    return [(row.scope, row.reason) for row in session.execute(_STOPPED, values)]


def hints(session: Session, delivery: Delivery) -> Sequence[Row[Any]]:
    """What the engine has noted about it in `due`: when to send or settle it, or who holds it and until when."""
    values = {
        "id": delivery.id,
        "campaign_id": delivery.campaign_id,
        "channel": delivery.channel,
        "due_at": delivery.due_at,
    }
    return session.execute(_HINTS, values).all()


def is_held(delivery: Delivery, fence: int | None) -> bool:
    """Whether a lease of this fence still speaks of the delivery."""
    handed = 1 if delivery.state == DeliveryState.SENDING else 0
    return delivery.state in (DeliveryState.PENDING, DeliveryState.SENDING) and fence == delivery.fence - handed


def _steps(session: Session, delivery: Delivery) -> list[Step]:
    """What happened, in the order of its own time."""
    steps = [Step(delivery.created_at, "created")]
    attempts = select(Attempt).where(Attempt.delivery_id == delivery.id).order_by(Attempt.fence)
    for number, attempt in enumerate(session.scalars(attempts), start=1):
        values = {"number": number, "provider": attempt.provider}
        steps.append(Step(attempt.started_at, "handed", values=values))
        if attempt.ended_at is not None:
            steps.append(Step(attempt.ended_at, f"ended_{attempt.outcome}", attempt.code or "", values))
    for receipt in session.scalars(select(Receipt).where(Receipt.delivery_id == delivery.id).order_by(Receipt.id)):
        values = {"provider": receipt.provider, "event": receipt.event, "effect": receipt.effect or ""}
        changed = receipt.effect not in (None, "nothing")
        steps.append(Step(receipt.event_at, "receipt_applied" if changed else "receipt", receipt.code, values))
    acts = select(Journal).where(
        or_(
            Journal.subject == f"delivery:{delivery.id}",
            (Journal.subject == f"campaign:{delivery.campaign_id}")
            & Journal.action.in_(_ACTS_ON_DELIVERIES)
            & Journal.detail["first"].contains([delivery.id]),
        )
    )
    for entry in session.scalars(acts.order_by(Journal.id.desc()).limit(_JOURNAL)):
        values = {"actor": entry.actor, "action": entry.action, "reason": entry.detail.get("reason", "")}
        steps.append(Step(entry.at, "act", values=values))
    return sorted(steps, key=lambda step: step.at)


def _next(delivery: Delivery, hints: Sequence[Row[Any]]) -> list[Step]:
    steps = [
        Step(hint.at, "in_hand", values={"owner": hint.owner})
        for hint in hints
        if hint.kind == "lease" and is_held(delivery, hint.fence)
    ]
    if delivery.due_at is not None and delivery.state != DeliveryState.SENDING:
        steps.append(Step(delivery.due_at, "due", delivery.reason or ""))
    return steps


def unmask(session: Session, master: MasterKey, delivery_id: int, *, actor: str, reason: str) -> str:
    """The address or number a delivery goes to; who asked and why stands in the journal.

    Raises InputError without a reason, NotFoundError, SealingError if the campaign's people were erased.
    """
    if not reason.strip():
        raise InputError("A reason is needed: it is kept in the journal.")
    delivery = session.get(Delivery, delivery_id)
    if delivery is None:
        raise NotFoundError(f"There is no delivery {delivery_id}.")
    campaign = session.get_one(Campaign, delivery.campaign_id)
    contact = session.get_one(Contact, delivery.contact_id)
    key = master.open_data_key(campaign.data_key, campaign.id)
    detail = {"reason": reason.strip()[:500], "campaign": campaign.id}
    store.record(session, actor, "contact.unmasked", f"delivery:{delivery_id}", campaign.doctor_id, detail)
    return key.open(contact.value_sealed, b"contact.value").decode()
