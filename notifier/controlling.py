"""What a person decides about a running campaign or the whole system: pause, resume, cancel, stop, lift, replay.

Every act is one transaction with its journal entry. No provider call starts later than a second after the
commit: workers read the controls four times a second and start nothing on an older answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Row, or_, text
from sqlalchemy.orm import Session

from notifier import breakers, store
from notifier.errors import ConflictError, InputError, NotFoundError
from notifier.models import Campaign, Doctor, Hold, Incident
from notifier.providers import PROVIDERS
from notifier.sealing import MasterKey
from notifier.states import Campaign as State
from notifier.states import Channel, Delivery, Outcome, Unreached, check_move, sources

#: who sets a hold by itself, when a provider throttles or fails
ENGINE = "engine"
#: deliveries the journal names with an act; of more it keeps the count
_NAMED = 100
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


def resume(session: Session, campaign_id: int, *, actor: str, reason: str | None = None) -> Campaign:
    """Goes on where it stopped; nobody who was told is told again. A reason is for the journal alone."""
    campaign = locked(session, campaign_id)
    if campaign.state != State.PAUSED:
        raise ConflictError(f"Campaign {campaign_id} is {campaign.state}; only a paused campaign can be resumed.")
    resumed = _move(session, campaign_id, State.SENDING, actor, "campaign.resume", None, said=reason)
    session.execute(_BOUNCES_FROM_HERE, {"campaign_id": campaign_id})
    return resumed


def cancel(session: Session, campaign_id: int, *, actor: str, reason: str, now: datetime) -> Campaign:
    """Ends a campaign for good: who was told stays told, nobody else will be, and each keeps the reason."""
    campaign = _move(session, campaign_id, State.CANCELLED, actor, "campaign.cancel", _reason(reason))
    session.execute(
        text(
            f"UPDATE delivery SET state = '{Delivery.CANCELLED}', due_at = :now "
            "WHERE campaign_id = :campaign_id AND state = ANY(:sources) "
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


#: states of an email that say how its hand-over ended
_RESULT_STATES = f"('{Delivery.ACCEPTED}', '{Delivery.DELIVERED}', '{Delivery.FAILED}')"
_BOUNCES_FROM_HERE = text(
    f"""
    INSERT INTO bounce (campaign_id, since, results_before)
    SELECT :campaign_id, now(), coalesce(sum(n), 0) FROM tally
    WHERE campaign_id = :campaign_id AND channel = '{Channel.EMAIL}' AND state IN {_RESULT_STATES}
    ON CONFLICT (campaign_id) DO UPDATE
        SET n = 0, since = excluded.since, results_before = excluded.results_before
    """
)
_BOUNCING = text(
    f"""
    SELECT c.id, b.n, results.n AS results
    FROM bounce b JOIN campaign c ON c.id = b.campaign_id CROSS JOIN LATERAL (
        SELECT coalesce(sum(t.n), 0) - b.results_before AS n FROM tally t
        WHERE t.campaign_id = c.id AND t.channel = '{Channel.EMAIL}' AND t.state IN {_RESULT_STATES}
    ) results
    WHERE c.state = '{State.SENDING}' AND b.n > :limit * :least
      AND results.n >= :least AND b.n > :limit * results.n
    ORDER BY c.id
    """
)


def pause_bouncing(session: Session, *, limit: float, least: int) -> list[int]:
    """Pauses campaigns of whose emails more than `limit` (a share) failed because of the address; returns them.

    Judged once `least` emails have a result, counted from the start or the last resume. A list like that is an
    old or a wrong one, and receivers block who goes on: a person has to look.
    """
    paused = []
    for row in session.execute(_BOUNCING, {"limit": limit, "least": least}).all():
        if locked(session, row.id).state == State.SENDING:
            share = f"{row.n / row.results:.0%}, the limit is {limit:.0%}"
            reason = f"{row.n} of {row.results} email addresses do not work ({share}): is it the right list?"
            _move(session, row.id, State.PAUSED, ENGINE, "campaign.pause", reason)
            paused.append(row.id)
    return paused


# --- sending again -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Chosen:
    """Deliveries by their numbers, or all of one campaign that are in a state, maybe with a code."""

    ids: tuple[int, ...] = ()
    campaign_id: int | None = None
    code: str | None = None


@dataclass(frozen=True, slots=True)
class Again:
    """What an act on chosen deliveries does, or would do: the numbers it takes, and why it leaves others alone."""

    ids: list[int]
    left: dict[str, int]


#: why a delivery is not sent again, in the order they are looked for
LEFT = {
    "campaign_over": "its campaign is cancelled or erased",
    "other_state": "it is not in a state this is for",
    "receipt_waiting": "a receipt of it is to be applied first: try again in a minute",
    "excluded": "nobody it is for is to be told",
    "may_have_arrived": "it may have arrived: only if you say that it may go out twice",
    "told": "everybody it is for was told by another message, or excluded: only if you say so",
    "awaited": "another message to those it is for is on its way: only if you say so",
    "one_is_enough": "another of the chosen ones goes to the same person",
}

#: Whether a hand-over may have reached the person although the delivery does not say so.
_DOUBTFUL = (
    f"(d.state = '{Delivery.UNKNOWN}' OR d.possibly_twice "
    "OR coalesce(d.reason, '') IN ('no_receipt', 'uncertain_twice'))"
)

#: What becomes of each chosen delivery. A person needs it if they are neither told nor about to be by another;
#: of several chosen for one person the first in the campaign's plan is taken.
_JUDGED = f"""
    WITH judged AS MATERIALIZED (
        SELECT d.id, d.campaign_id, d.channel, c.plan,
               CASE WHEN c.state NOT IN ('{State.SENDING}', '{State.PAUSED}', '{State.COMPLETED}')
                         OR c.data_key IS NULL THEN 'campaign_over'
                    WHEN d.state <> ALL(:states) THEN 'other_state'
                    WHEN EXISTS (
                        SELECT FROM receipt r WHERE r.delivery_id = d.id AND r.applied_at IS NULL
                    ) THEN 'receipt_waiting'
                    WHEN {_DOUBTFUL} AND NOT :possibly_twice THEN 'may_have_arrived'
                    ELSE 'again' END AS verdict
        FROM delivery d JOIN campaign c ON c.id = d.campaign_id
        WHERE {{chosen}}
        FOR UPDATE OF d
    ), person AS MATERIALIZED (
        SELECT j.id, p.id AS patient_id, array_position(j.plan, j.channel) AS place,
               p.outcome = '{Outcome.INFORMED}' AS told,
               EXISTS (
                   SELECT FROM delivery_patient dp2 JOIN delivery d2 ON d2.id = dp2.delivery_id
                   WHERE dp2.patient_id = p.id AND d2.id <> j.id
                     AND d2.state IN ('{Delivery.PENDING}', '{Delivery.SENDING}', '{Delivery.UNKNOWN}',
                                      '{Delivery.ACCEPTED}', '{Delivery.DELIVERED}')
               ) AS awaited
        FROM judged j JOIN delivery_patient dp ON dp.delivery_id = j.id JOIN patient p ON p.id = dp.patient_id
        WHERE j.verdict = 'again' AND p.outcome <> '{Outcome.EXCLUDED}'
    ), first AS (
        SELECT DISTINCT ON (patient_id) id FROM person WHERE NOT told AND NOT awaited
        ORDER BY patient_id, place, id
    ), for_people AS (
        SELECT id, CASE WHEN :even_told OR id IN (SELECT id FROM first) THEN 'again'
                        WHEN bool_and(told) THEN 'told'
                        WHEN bool_and(told OR awaited) THEN 'awaited'
                        ELSE 'one_is_enough' END AS verdict
        FROM person GROUP BY id
    )
    SELECT j.id, j.campaign_id,
           CASE WHEN j.verdict <> 'again' THEN j.verdict ELSE coalesce(f.verdict, 'excluded') END AS verdict
    FROM judged j LEFT JOIN for_people f ON f.id = j.id
    ORDER BY j.id
"""

#: As if it had never been tried: the limits on tries and time begin anew.
_SEND_AGAIN = text(
    f"""
    UPDATE delivery d
    SET state = '{Delivery.PENDING}', due_at = :now, tries = 0, first_tried_at = NULL, crashes = 0,
        possibly_twice = {_DOUBTFUL}, reason = :reason
    WHERE id = ANY(:ids) AND state = ANY(:states) AND state = ANY(:sources)
    """
)

_GIVE_UP = text(
    f"""
    UPDATE delivery SET state = '{Delivery.FAILED}', due_at = :now, reason = 'given_up'
    WHERE id = ANY(:ids) AND state = '{Delivery.QUARANTINED}' AND state = ANY(:sources)
    """
)

#: Who was given up is on the way again, and their campaign with them.
_HOPE_AGAIN = text(
    f"""
    UPDATE patient p SET outcome = '{Outcome.ON_THE_WAY}', outcome_reason = NULL, outcome_at = :now
    FROM delivery_patient dp
    WHERE dp.delivery_id = ANY(:ids) AND p.id = dp.patient_id AND p.outcome = '{Outcome.UNREACHED}'
      AND p.outcome = ANY(:sources)
    """
)
_REOPEN = text(
    f"""
    UPDATE campaign SET state = '{State.SENDING}', completed_at = NULL
    WHERE id = ANY(:campaigns) AND state = '{State.COMPLETED}'
    """
)


def replay(
    session: Session,
    chosen: Chosen,
    state: Delivery,
    *,
    actor: str,
    reason: str,
    now: datetime,
    possibly_twice: bool = False,
    even_told: bool = False,
    dry_run: bool = False,
) -> Again:
    """Sends failed (or, if `possibly_twice`, uncertain) deliveries again, as if they had never been tried.

    Left alone is what may have arrived, unless `possibly_twice`, which marks it so; and what nobody needs,
    because everybody it is for was told by another message or is about to be, unless `even_told`. Of several
    for one person the first in the plan goes out. See `LEFT` for all reasons. `dry_run` only says what would
    be done.

    Raises InputError for a state that cannot be sent again, NotFoundError for a number there is not.
    """
    if state not in (Delivery.FAILED, Delivery.UNKNOWN):
        raise InputError("Only failed deliveries, and uncertain ones, can be sent again.")
    if state is Delivery.UNKNOWN and not possibly_twice:
        raise InputError(
            "An uncertain delivery may have arrived: say that it may go out twice, or let it be settled."
        )
    states = [str(state)] if chosen.campaign_id is not None else [str(Delivery.FAILED), str(Delivery.UNKNOWN)]
    act = _Act("delivery.replay", "replayed", actor, _reason(reason), now, dry_run)
    return _again(session, chosen, states, act, possibly_twice=possibly_twice, even_told=even_told)


def release(
    session: Session,
    chosen: Chosen,
    *,
    actor: str,
    reason: str,
    now: datetime,
    even_told: bool = False,
    dry_run: bool = False,
) -> Again:
    """Sends again what was set aside, its count of crashes at nought. Otherwise as `replay`."""
    act = _Act("quarantine.release", "released", actor, _reason(reason), now, dry_run)
    # It was set aside before the hand-over: what may have arrived is marked already.
    return _again(session, chosen, [str(Delivery.QUARANTINED)], act, possibly_twice=True, even_told=even_told)


def give_up(
    session: Session, chosen: Chosen, *, actor: str, reason: str, now: datetime, dry_run: bool = False
) -> Again:
    """Fails what was set aside, also in a campaign that is over: the next channel or a letter takes over."""
    act = _Act("quarantine.give_up", "given_up", actor, _reason(reason), now, dry_run)
    rows = _judged(session, chosen, [str(Delivery.QUARANTINED)], possibly_twice=True, even_told=True)
    taken = [row for row in rows if row.verdict in ("again", "campaign_over", "receipt_waiting", "excluded")]
    if not dry_run and taken:
        ids = [row.id for row in taken]
        session.execute(_GIVE_UP, {"ids": ids, "now": now, "sources": sources(Delivery.FAILED)})
        _follow(session, taken, act)
    return _said(rows, taken)


@dataclass(frozen=True, slots=True)
class _Act:
    """Who does what to chosen deliveries, and why."""

    action: str
    code: str
    actor: str
    reason: str
    now: datetime
    dry_run: bool


def _again(
    session: Session, chosen: Chosen, states: list[str], act: _Act, *, possibly_twice: bool, even_told: bool
) -> Again:
    rows = _judged(session, chosen, states, possibly_twice=possibly_twice, even_told=even_told)
    taken = [row for row in rows if row.verdict == "again"]
    if not act.dry_run and taken:
        ids = [row.id for row in taken]
        values = {"ids": ids, "now": act.now, "states": states, "reason": act.code}
        session.execute(_SEND_AGAIN, values | {"sources": sources(Delivery.PENDING)})
        _follow(session, taken, act)
    return _said(rows, taken)


def _judged(
    session: Session, chosen: Chosen, states: list[str], *, possibly_twice: bool, even_told: bool
) -> Sequence[Row[tuple[int, int, str]]]:
    store.settle_alone(session)
    if chosen.campaign_id is not None:
        locked(session, chosen.campaign_id)
        where = "d.campaign_id = :campaign_id AND d.state = ANY(:states)"
        if chosen.code is not None:
            where += " AND d.reason = :code"
    else:
        where = "d.id = ANY(:ids)"
    rows = session.execute(
        text(_JUDGED.format(chosen=where)),
        {
            "ids": list(chosen.ids),
            "campaign_id": chosen.campaign_id,
            "code": chosen.code,
            "states": states,
            "possibly_twice": possibly_twice,
            "even_told": even_told,
        },
    ).all()
    missing = sorted(set(chosen.ids) - {row.id for row in rows})
    if missing and chosen.campaign_id is None:
        raise NotFoundError(f"There is no delivery {', '.join(map(str, missing[:5]))}.")
    return rows


def _follow(session: Session, taken: Sequence[Row[tuple[int, int, str]]], act: _Act) -> None:
    """People and campaigns follow their deliveries, and the journal keeps it."""
    ids = [row.id for row in taken]
    by_campaign = Counter(row.campaign_id for row in taken)
    store.doubt_informed(session, ids, now=act.now)
    session.execute(_HOPE_AGAIN, {"ids": ids, "now": act.now, "sources": sources(Outcome.ON_THE_WAY)})
    session.execute(_REOPEN, {"campaigns": list(by_campaign)})
    for campaign_id, count in sorted(by_campaign.items()):
        doctor_id = session.get_one(Campaign, campaign_id, populate_existing=True).doctor_id
        named = [row.id for row in taken if row.campaign_id == campaign_id][:_NAMED]
        detail = {"reason": act.reason, "deliveries": count, "first": named}
        store.record(session, act.actor, act.action, f"campaign:{campaign_id}", doctor_id, detail)


def _said(rows: Sequence[Row[tuple[int, int, str]]], taken: Sequence[Row[tuple[int, int, str]]]) -> Again:
    done = {row.id for row in taken}
    return Again(sorted(done), dict(Counter(row.verdict for row in rows if row.id not in done)))


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


def lift(session: Session, scope: str, *, actor: str, reason: str | None = None) -> None:
    """Lets a scope go on, and closes the breaker of a provider or of a group of receivers.

    Raises NotFoundError if nothing stops it.
    """
    was_open = breakers.close_scope(session, scope)
    held = session.get(Hold, scope if was_open else _scope(scope))
    if held is not None:
        session.delete(held)
    elif not was_open:
        raise NotFoundError(f"{scope} is not on hold.")
    store.record(session, actor, "hold.lift", scope, detail={"reason": _reason(reason)} if reason else None)


def _move(
    session: Session,
    campaign_id: int,
    target: State,
    actor: str,
    action: str,
    reason: str | None,
    *,
    said: str | None = None,
) -> Campaign:
    campaign = locked(session, campaign_id)
    check_move(State(campaign.state), target)
    campaign.state = target
    campaign.epoch += 1
    campaign.reason = reason
    session.flush()
    if target is State.SENDING:
        session.execute(store.WAKE)
    detail = {"reason": _reason(said) if said else reason}
    store.record(session, actor, action, f"campaign:{campaign_id}", campaign.doctor_id, detail)
    return campaign


def _scope(scope: str) -> str:
    if scope not in SCOPES:
        raise InputError(f"What to stop must be one of: {', '.join(SCOPES)}.")
    return scope


def _reason(reason: str) -> str:
    if not reason.strip():
        raise InputError("A reason is needed: it is kept in the journal.")
    return reason.strip()[:500]
