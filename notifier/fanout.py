"""Step 4: an approved campaign becomes deliveries, by one set operation; repeating it is harmless."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import TextClause, text
from sqlalchemy.orm import Session

from notifier import store
from notifier.errors import ConflictError, NotFoundError
from notifier.models import Campaign
from notifier.states import Campaign as CampaignState
from notifier.states import Channel, Outcome, Variant


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
