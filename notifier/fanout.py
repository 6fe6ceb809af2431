"""Step 4: an approved campaign becomes deliveries, by one set operation; repeating it is harmless.

A list that comes after the start takes back what it made needless and makes what it added: see `extend`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import TextClause, text
from sqlalchemy.orm import Session

from notifier import reaching, store
from notifier.errors import ConflictError, NotFoundError
from notifier.models import Campaign, Patient
from notifier.reaching import WITHDRAWN
from notifier.states import Campaign as CampaignState
from notifier.states import Channel, Delivery, Outcome, Variant, check_move, sources


#: Each patient's first contact in the order of the campaign's plan. An email is for one patient, also in a
#: shared mailbox; one SMS serves everybody who shares the number, in the wider variant if any needs it.
#: `again` skips what is there; a first time costs a third less without looking.
def _fan_out(again: str) -> TextClause:
    return text(
        f"""
    WITH first AS MATERIALIZED (
        SELECT DISTINCT ON (p.id) p.id AS patient_id, p.doctor_id, p.language, p.variant,
               k.id AS contact_id, k.channel
        FROM patient p
        JOIN patient_contact pc ON pc.patient_id = p.id
        JOIN contact k ON k.id = pc.contact_id
        JOIN campaign c ON c.id = p.campaign_id
        WHERE p.campaign_id = :campaign_id AND p.outcome = '{Outcome.ON_THE_WAY}' AND k.channel = ANY(c.plan)
        ORDER BY p.id, array_position(c.plan, k.channel), pc.rank
    ), email AS (
        INSERT INTO delivery (campaign_id, doctor_id, contact_id, addressee_id, channel, language, variant)
        SELECT :campaign_id, doctor_id, contact_id, patient_id, channel, language, variant
        FROM first
        WHERE channel = '{Channel.EMAIL}'
        {again}
        RETURNING id, addressee_id AS patient_id, doctor_id
    ), sms AS (
        INSERT INTO delivery (campaign_id, doctor_id, contact_id, channel, language, variant)
        SELECT :campaign_id, min(doctor_id), contact_id, channel,
               (array_agg(language ORDER BY patient_id))[1],
               CASE WHEN bool_or(variant = '{Variant.COMMENT}')
                    THEN '{Variant.COMMENT}' ELSE '{Variant.STANDARD}' END
        FROM first
        WHERE channel <> '{Channel.EMAIL}'
        GROUP BY contact_id, channel
        {again}
        RETURNING id, contact_id, doctor_id
    ), linked AS (
        INSERT INTO delivery_patient (delivery_id, patient_id, doctor_id)
        SELECT id, patient_id, doctor_id FROM email
        UNION ALL
        SELECT sms.id, first.patient_id, sms.doctor_id
        FROM sms JOIN first ON first.contact_id = sms.contact_id AND first.channel <> '{Channel.EMAIL}'
    )
    SELECT (SELECT count(*) FROM email) + (SELECT count(*) FROM sms)
    """
    )


_FAN_OUT, _FAN_OUT_AGAIN = _fan_out(""), _fan_out("ON CONFLICT DO NOTHING")
_ANY = text("SELECT EXISTS (SELECT FROM delivery WHERE campaign_id = :campaign_id)")


def start(session: Session, campaign_id: int, *, actor: str, now: datetime) -> int:
    """Makes the deliveries of an approved campaign and sets it sending; returns how many were made.

    All in the caller's transaction: either every patient has a delivery and the campaign sends, or nothing
    happened. Raises NotFoundError, or ConflictError if the campaign is not approved.
    """
    campaign = session.get(Campaign, campaign_id, with_for_update=True)
    if campaign is None:
        raise NotFoundError(f"There is no campaign {campaign_id}.")
    if campaign.state != CampaignState.APPROVED:
        raise ConflictError(
            f"Campaign {campaign_id} is {campaign.state}; only an approved campaign can be started."
            + (" Approve it first." if campaign.state in (CampaignState.DRAFT, CampaignState.READY) else "")
        )
    # A whole practice fits: sorting 200,000 people on disk would take longer than making their deliveries.
    session.execute(text("SET LOCAL work_mem = '128MB'"))
    values = {"campaign_id": campaign_id}
    again = session.execute(_ANY, values).scalar_one()
    made: int = session.execute(_FAN_OUT_AGAIN if again else _FAN_OUT, values).scalar_one()
    # The planner must not judge the new rows by what the table held before.
    session.flush()
    store.moved(session, campaign_id, CampaignState.SENDING, epoch=campaign.epoch + 1, started_at=now)
    session.refresh(campaign)
    store.record(
        session, actor, "campaign.start", f"campaign:{campaign_id}", campaign.doctor_id, {"deliveries": made}
    )
    return made


# --- a list after the start -----------------------------------------------------------------------------------

#: patients looked at by one piece
PIECE = 5_000
_STARTED = (CampaignState.SENDING, CampaignState.PAUSED, CampaignState.COMPLETED)


@dataclass(frozen=True, slots=True)
class Extended:
    """What one piece, or several, did."""

    #: patients
    looked_at: int = 0
    #: deliveries taken back before they went out
    withdrawn: int = 0
    #: patients given a contact: by a new delivery, or by one there is for it already
    given: int = 0
    #: patients told already, while they were excluded
    informed: int = 0
    #: patients for whom nothing is left to try
    unreached: int = 0
    #: the patient to go on after; None when all were looked at
    last: int | None = None

    def then(self, piece: Extended) -> Extended:
        """This and a further piece."""
        return Extended(
            self.looked_at + piece.looked_at,
            self.withdrawn + piece.withdrawn,
            self.given + piece.given,
            self.informed + piece.informed,
            self.unreached + piece.unreached,
            piece.last,
        )

    def counts(self) -> dict[str, int]:
        """What was changed, for the journal."""
        return {name: getattr(self, name) for name in ("withdrawn", "given", "informed", "unreached")}


def _unwanted(condition: str, lock: str) -> TextClause:
    return text(
        f"""
        SELECT d.id FROM delivery d
        WHERE d.id IN (SELECT dp.delivery_id FROM delivery_patient dp WHERE dp.patient_id = ANY(:ids))
          AND d.state = '{Delivery.PENDING}' AND {condition} AND NOT {reaching.is_wanted("d")}
        ORDER BY d.id FOR UPDATE OF d {lock}
        """
    )


#: Who holds one of the first kind is a worker that marks it: then it is no longer ours. One that a worker had
#: before is withdrawn by its next claim at the latest: no need to wait for a receipt that may wait for us.
_UNWANTED = (_unwanted("d.fence = 0", ""), _unwanted("d.fence > 0", "SKIP LOCKED"))

#: The fence grows, so that no worker who has claimed it sends it, also where it is needed again at once.
_WITHDRAW = text(
    f"""
    UPDATE delivery SET state = '{Delivery.CANCELLED}', due_at = :now, reason = '{WITHDRAWN}', fence = fence + 1
    WHERE id = ANY(:deliveries) AND state = '{Delivery.PENDING}' AND state = ANY(:to_cancelled)
    """
)

#: People of this piece to be told for whom no message is at work, nor a result about to be handed on.
_STRANDED = f"""
    SELECT p.id, p.campaign_id, p.doctor_id, p.language, p.variant FROM patient p
    WHERE p.id = ANY(:ids) AND p.outcome = '{Outcome.ON_THE_WAY}' AND NOT EXISTS (
        SELECT FROM delivery_patient dp2 JOIN delivery d2 ON d2.id = dp2.delivery_id
        WHERE dp2.patient_id = p.id AND (
            d2.state IN ('{Delivery.PENDING}', '{Delivery.SENDING}', '{Delivery.UNKNOWN}', '{Delivery.ACCEPTED}',
                         '{Delivery.DELIVERED}')
            OR (d2.state IN ('{Delivery.FAILED}', '{Delivery.QUARANTINED}') AND d2.due_at IS NOT NULL)
        )
    )
"""
_NEXT = text(reaching.next_contact(_STRANDED))
_GIVE_UP = text(reaching.give_up(_STRANDED))

#: A message that was with the provider when its person was excluded has arrived, and now counts.
_TOLD = text(
    f"""
    UPDATE patient p SET outcome = '{Outcome.INFORMED}', outcome_reason = NULL, outcome_at = :now
    WHERE p.id = ANY(:ids) AND p.outcome = '{Outcome.ON_THE_WAY}' AND p.outcome = ANY(:to_informed) AND EXISTS (
        SELECT FROM delivery_patient dp JOIN delivery d ON d.id = dp.delivery_id
        WHERE dp.patient_id = p.id AND {reaching.has_told("d")}
    )
    RETURNING p.id
    """
)

_REOPEN = text(
    f"""
    UPDATE campaign c SET state = :target, completed_at = NULL
    WHERE c.id = :campaign_id AND c.state = '{CampaignState.COMPLETED}' AND EXISTS (
        SELECT FROM patient p WHERE p.campaign_id = c.id AND p.outcome = '{Outcome.ON_THE_WAY}'
    )
    """
)

_TEXTS = text(
    f"""
    SELECT DISTINCT k.channel, p.language, p.variant
    FROM patient p JOIN campaign c ON c.id = p.campaign_id
    JOIN patient_contact pc ON pc.patient_id = p.id
    JOIN contact k ON k.id = pc.contact_id AND k.channel = ANY(c.plan)
    WHERE p.campaign_id = :campaign_id AND p.changed_in = :list_id AND p.outcome = '{Outcome.ON_THE_WAY}'
    """
)


def texts_needed(session: Session, campaign_id: int, list_id: int) -> set[tuple[Channel, str, Variant]]:
    """Which texts those may be sent whom a list has added or changed; the language is the patient's own."""
    rows = session.execute(_TEXTS, {"campaign_id": campaign_id, "list_id": list_id})
    return {(Channel(row.channel), row.language, Variant(row.variant)) for row in rows}


def extend(
    session: Session,
    campaign_id: int,
    *,
    now: datetime,
    list_id: int | None = None,
    after: int = 0,
    limit: int = PIECE,
) -> Extended:
    """Makes the deliveries of a started campaign fit its patients as they stand now: one piece of the work.

    Looks at up to `limit` patients after the one with id `after`, of those whom list `list_id` has changed, or of
    all. A delivery that is still to be sent is withdrawn if nobody it is for has its contact any more, or is to be
    told, or to be told that text. Whoever is on the way and has no message at work gets the next contact not tried
    yet, and is unreached where there is none. Nobody who was told is written to again, and what a worker has
    handed over stays as it is.

    Each piece is whole: the caller commits, and goes on with `after=piece.last` until that is None, or begins
    anew at any time; what was done already is found done. Waits for the round of settling at work. Raises
    NotFoundError, or ConflictError for a campaign that was not started or is cancelled.
    """
    _take_turn(session, campaign_id)
    outcomes = (Outcome.ON_THE_WAY, Outcome.EXCLUDED)
    changed = () if list_id is None else (Patient.changed_in == list_id,)
    ids = list(session.scalars(store.next_patients(campaign_id, after, limit, outcomes, *changed)))
    if not ids:
        return Extended()
    values: dict[str, Any] = {"ids": ids, "now": now}
    withdrawn = [delivery for statement in _UNWANTED for delivery in session.scalars(statement, values)]
    if withdrawn:
        to_cancelled = sources(Delivery.CANCELLED)
        session.execute(_WITHDRAW, {"deliveries": withdrawn, "now": now, "to_cancelled": to_cancelled})
    informed = session.execute(_TOLD, values | {"to_informed": sources(Outcome.INFORMED)}).all()
    given = list(session.scalars(_NEXT, values | {"to_on_the_way": sources(Outcome.ON_THE_WAY)}))
    lost = session.execute(_GIVE_UP, values | {"to_unreached": sources(Outcome.UNREACHED), "moved": given}).all()
    check_move(CampaignState.COMPLETED, CampaignState.SENDING)
    session.execute(_REOPEN, {"campaign_id": campaign_id, "target": CampaignState.SENDING})
    session.execute(store.WAKE)
    last = ids[-1] if len(ids) == limit else None
    return Extended(len(ids), len(withdrawn), len(given), len(informed), len(lost), last)


def extend_all(session: Session, campaign_id: int, *, now: datetime, list_id: int | None = None) -> Extended:
    """All pieces of `extend`, in the caller's one transaction."""
    total = extend(session, campaign_id, now=now, list_id=list_id)
    while total.last is not None:
        total = total.then(extend(session, campaign_id, now=now, list_id=list_id, after=total.last))
    return total


def _take_turn(session: Session, campaign_id: int) -> None:
    store.settle_alone(session)
    # What we read of the campaign may be older than the wait.
    campaign = session.get(Campaign, campaign_id, populate_existing=True)
    if campaign is None:
        raise NotFoundError(f"There is no campaign {campaign_id}.")
    if campaign.state not in _STARTED:
        raise ConflictError(f"Campaign {campaign_id} is {campaign.state}: it must be started, and not cancelled.")
