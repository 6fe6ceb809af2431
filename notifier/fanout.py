"""Step 4: an approved campaign becomes deliveries, by one set operation; repeating it is harmless."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import text
from sqlalchemy.orm import Session

from notifier import store
from notifier.errors import ConflictError, NotFoundError
from notifier.models import Campaign
from notifier.states import Campaign as CampaignState
from notifier.states import Outcome, Variant

#: Each patient's first contact in the order of the campaign's plan. An email is for one patient, also in a
#: shared mailbox; one SMS serves everybody who shares the number, in the wider variant if any needs it.
_FAN_OUT = text(
    f"""
    WITH first AS MATERIALIZED (
        SELECT DISTINCT ON (p.id) p.id AS patient_id, p.doctor_id, p.language, p.variant,
               k.id AS contact_id, k.channel,
               CASE WHEN k.channel = 'email' THEN p.id END AS addressee_id
        FROM patient p
        JOIN patient_contact pc ON pc.patient_id = p.id
        JOIN contact k ON k.id = pc.contact_id
        JOIN campaign c ON c.id = p.campaign_id
        WHERE p.campaign_id = :campaign_id AND p.outcome = '{Outcome.ON_THE_WAY}' AND k.channel = ANY(c.plan)
        ORDER BY p.id, array_position(c.plan, k.channel), pc.rank
    ), made AS (
        INSERT INTO delivery
            (campaign_id, doctor_id, contact_id, addressee_id, channel, language, variant)
        SELECT :campaign_id, min(doctor_id), contact_id, addressee_id, channel,
               (array_agg(language ORDER BY patient_id))[1],
               CASE WHEN bool_or(variant = '{Variant.COMMENT}')
                    THEN '{Variant.COMMENT}' ELSE '{Variant.STANDARD}' END
        FROM first
        GROUP BY contact_id, addressee_id, channel
        ON CONFLICT DO NOTHING
        RETURNING id, contact_id, addressee_id, doctor_id
    ), linked AS (
        INSERT INTO delivery_patient (delivery_id, patient_id, doctor_id)
        SELECT made.id, first.patient_id, made.doctor_id
        FROM made JOIN first
          ON first.contact_id = made.contact_id
         AND first.addressee_id IS NOT DISTINCT FROM made.addressee_id
        ON CONFLICT DO NOTHING
    )
    SELECT count(*) FROM made
    """
)


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
    made: int = session.execute(_FAN_OUT, {"campaign_id": campaign_id}).scalar_one()
    # The planner must not judge the new rows by what the table held before.
    session.flush()
    store.moved(session, campaign_id, CampaignState.SENDING, epoch=campaign.epoch + 1, started_at=now)
    session.refresh(campaign)
    store.record(
        session, actor, "campaign.start", f"campaign:{campaign_id}", campaign.doctor_id, {"deliveries": made}
    )
    return made
