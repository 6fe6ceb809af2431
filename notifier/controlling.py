"""What a person decides about a running campaign or the whole system: pause, resume, cancel, stop, lift.

Every act is one transaction with its journal entry. No provider call starts later than a second after the
commit: workers read the controls four times a second and start nothing on an older answer.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import or_, text
from sqlalchemy.orm import Session

from notifier import store
from notifier.errors import ConflictError, InputError, NotFoundError
from notifier.models import Campaign, Doctor, Hold, Incident
from notifier.sealing import MasterKey
from notifier.states import Campaign as State
from notifier.states import Channel, Delivery, Outcome, Unreached, check_move, sources

#: who sets a hold by itself, when a provider throttles or fails
ENGINE = "engine"
#: names of providers there are, as `providers` has them
PROVIDERS = ("smtp", "brevo-sms")
SCOPES = (
    "everything",
    *(f"channel:{channel}" for channel in Channel),
    *(f"provider:{name}" for name in PROVIDERS),
)


def create(session: Session, master: MasterKey, incident_id: int, doctor_id: int, *, actor: str) -> Campaign:
    """A doctor's campaign for an incident, with a fresh data key.

    Raises NotFoundError, or ConflictError if the doctor has one already; one that was cancelled before it told
    anybody does not count.
    """
    incident = session.get(Incident, incident_id)
    doctor = session.get(Doctor, doctor_id)
    if incident is None or doctor is None:
        raise NotFoundError(f"There is no {'incident' if incident is None else 'doctor'} of this number.")
    existing = (
        session.query(Campaign)
        .filter_by(incident_id=incident_id, doctor_id=doctor_id)
        .filter(or_(Campaign.state != State.CANCELLED, Campaign.started_at.is_not(None)))
        .first()
    )
    if existing is not None:
        raise ConflictError(f"This doctor already has campaign {existing.id} for this incident.")
    campaign = Campaign(incident_id=incident_id, doctor_id=doctor_id)
    session.add(campaign)
    session.flush()
    campaign.data_key = master.new_data_key(campaign.id)
    store.record(session, actor, "campaign.create", f"campaign:{campaign.id}", doctor_id)
    return campaign


def locked(session: Session, campaign_id: int) -> Campaign:
    """The campaign, locked for this transaction. Raises NotFoundError, also for one out of the caller's reach."""
    campaign = session.get(Campaign, campaign_id, with_for_update=True, populate_existing=True)
    if campaign is None:
        raise NotFoundError(f"There is no campaign {campaign_id}.")
    return campaign


def pause(session: Session, campaign_id: int, *, actor: str, reason: str) -> Campaign:
    """No call for this campaign starts later than a second after the commit."""
    return _move(session, campaign_id, State.PAUSED, actor, "campaign.pause", _reason(reason))


def resume(session: Session, campaign_id: int, *, actor: str) -> Campaign:
    """Goes on where it stopped; nobody who was told is told again."""
    campaign = locked(session, campaign_id)
    if campaign.state != State.PAUSED:
        raise ConflictError(f"Campaign {campaign_id} is {campaign.state}; only a paused campaign can be resumed.")
    return _move(session, campaign_id, State.SENDING, actor, "campaign.resume", None)


def cancel(session: Session, campaign_id: int, *, actor: str, reason: str, now: datetime) -> Campaign:
    """Ends a campaign for good: who was told stays told, nobody else will be, and each keeps the reason."""
    campaign = _move(session, campaign_id, State.CANCELLED, actor, "campaign.cancel", _reason(reason))
    session.execute(
        text(
            f"UPDATE delivery SET state = '{Delivery.CANCELLED}', due_at = :now, lease_owner = NULL, "
            "lease_until = NULL WHERE campaign_id = :campaign_id AND state = ANY(:sources) "
            # what is in the provider's hands may still arrive: its receipt decides
            f"AND state <> '{Delivery.UNKNOWN}'"
        ),
        {"campaign_id": campaign_id, "now": now, "sources": sources(Delivery.CANCELLED)},
    )
    session.execute(
        text(
            f"UPDATE patient p SET outcome = '{Outcome.UNREACHED}', outcome_reason = '{Unreached.CANCELLED}', "
            "outcome_at = :now WHERE campaign_id = :campaign_id AND outcome = ANY(:sources) "
            f"AND outcome = '{Outcome.ON_THE_WAY}' "
            "AND NOT EXISTS (SELECT FROM delivery_patient dp WHERE dp.patient_id = p.id)"
        ),
        {"campaign_id": campaign_id, "now": now, "sources": sources(Outcome.UNREACHED)},
    )
    return campaign


def hold(
    session: Session, scope: str, *, actor: str, reason: str, now: datetime, until: datetime | None = None
) -> None:
    """Stops "everything", "channel:sms" or "provider:smtp" until then, or until a person lifts it.

    Raises InputError for a scope that would stop nothing or a time that has passed, ConflictError if a person
    stopped it for longer already.
    """
    if until is not None and until <= now:
        raise InputError("The time until which to stop has passed: nothing would be stopped.")
    held = session.get(Hold, _scope(scope), with_for_update=True)
    lasts = held is not None and held.by != ENGINE and (held.until is None or held.until > now)
    if held is not None and lasts and until is not None and (held.until is None or held.until > until):
        raise ConflictError(
            f"{scope} is stopped already, and for longer ({held.reason}): a shorter stop would let it go on too "
            "early. Let it go on first."
        )
    session.merge(Hold(scope=scope, reason=_reason(reason), until=until, by=actor))
    store.record(session, actor, "hold.set", scope, detail={"reason": reason})


def lift(session: Session, scope: str, *, actor: str) -> None:
    """Lets a scope go on. Raises NotFoundError if it is not on hold."""
    held = session.get(Hold, _scope(scope))
    if held is None:
        raise NotFoundError(f"{scope} is not on hold.")
    session.delete(held)
    store.record(session, actor, "hold.lift", scope)


def _move(
    session: Session, campaign_id: int, target: State, actor: str, action: str, reason: str | None
) -> Campaign:
    campaign = locked(session, campaign_id)
    check_move(State(campaign.state), target)
    campaign.state = target
    campaign.epoch += 1
    campaign.reason = reason
    session.flush()
    store.record(session, actor, action, f"campaign:{campaign_id}", campaign.doctor_id, {"reason": reason})
    return campaign


def _scope(scope: str) -> str:
    if scope not in SCOPES:
        raise InputError(f"What to stop must be one of: {', '.join(SCOPES)}.")
    return scope


def _reason(reason: str) -> str:
    if not reason.strip():
        raise InputError("A reason is needed: it is kept in the journal.")
    return reason.strip()[:500]
