"""Step 7: what a settled delivery means for its people: informed, the next channel, or the letter list.

Every delivery that has reached a result is due here once (`due_at`), whoever moved it: a worker, a receipt,
the sweeper or a person. Working through them again changes nothing, so a crash costs nothing.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import TextClause, text
from sqlalchemy.orm import Session

from notifier import reaching, store
from notifier.profiles import Profile
from notifier.reaching import INFORMED_MEANWHILE
from notifier.states import Campaign, Channel, Delivery, Outcome, sources

#: Codes of a failure by the address itself: refused when handed over, or reported back. Not our sender or account
#: (RFC 3463 X.7.z, X.1.7, X.1.8; RFC 4954 530 to 538), nor a full mailbox (X.2.2).
HARD_BOUNCE = r"^(receipt_hard_failed|unfit_address|http_400|smtp_5(?!3\d|\d\d_5\.(7\.|1\.[78]|2\.2)))"

#: states in which a delivery may still inform its people
_HOPEFUL = f"('{Delivery.PENDING}', '{Delivery.SENDING}', '{Delivery.UNKNOWN}')"


@dataclass(frozen=True, slots=True)
class Settled:
    """How many rows one round moved; `looked_at` near its limit means there may be more."""

    looked_at: int = 0
    deliveries: int = 0
    informed: int = 0
    next_channel: int = 0
    unreached: int = 0
    completed: int = 0

    def counts(self) -> dict[str, int]:
        return asdict(self)


#: Nothing is silence while a receipt waits to be applied.
_HEARD = "NOT EXISTS (SELECT FROM receipt r WHERE r.delivery_id = delivery.id AND r.applied_at IS NULL)"

#: What hints say is to be looked at now: at least one hint, and no more deliveries than asked.
_TAKE = text(
    """
    WITH seen AS (
        SELECT id, ids, at FROM due WHERE kind = 'settle' AND at <= :now
        ORDER BY at LIMIT :limit FOR UPDATE SKIP LOCKED
    ), counted AS (
        SELECT id, ids, row_number() OVER w AS place, sum(cardinality(ids)) OVER w AS n
        FROM seen WINDOW w AS (ORDER BY at, id ROWS UNBOUNDED PRECEDING)
    ), taken AS (
        DELETE FROM due USING counted
        WHERE due.id = counted.id AND (counted.place = 1 OR counted.n <= :limit)
        RETURNING due.ids
    )
    SELECT DISTINCT unnest(ids) FROM taken
    """
)

#: What was taken but could not be decided (a row locked, a receipt still to be applied) is looked at again.
_AGAIN = text(
    f"""
    UPDATE delivery SET due_at = due_at
    WHERE id = ANY(:ids) AND due_at <= :now AND state NOT IN ('{Delivery.PENDING}', '{Delivery.SENDING}')
    """
)

# Silence and uncertainty are decided first; what they become is then handed on like everything else.

_SILENT_EMAIL = text(
    f"""
    UPDATE delivery d SET due_at = NULL
    FROM (
        SELECT id FROM delivery
        WHERE id = ANY(:ids) AND due_at <= :now AND state = '{Delivery.ACCEPTED}' AND channel = ANY(:informing)
        FOR UPDATE SKIP LOCKED
    ) due
    WHERE d.id = due.id RETURNING d.id
    """
)

_SILENT_SMS = text(
    f"""
    UPDATE delivery d SET state = '{Delivery.FAILED}', reason = 'no_receipt', due_at = :now
    FROM (
        SELECT id FROM delivery
        WHERE id = ANY(:ids) AND due_at <= :now AND state = '{Delivery.ACCEPTED}'
          AND NOT channel = ANY(:informing) AND {_HEARD}
        FOR UPDATE SKIP LOCKED
    ) due
    WHERE d.id = due.id AND d.state = ANY(:to_failed)
    """
)

#: Once more, counted and shown as "possibly twice"; never a third time, not for a cancelled campaign, and not to
#: people whom another message has told meanwhile.
_UNCERTAIN = text(
    f"""
    UPDATE delivery d
    SET state = CASE WHEN due.is_over OR due.is_needless THEN '{Delivery.CANCELLED}'
                     WHEN d.possibly_twice THEN '{Delivery.FAILED}' ELSE '{Delivery.PENDING}' END,
        reason = CASE WHEN due.is_needless THEN '{INFORMED_MEANWHILE}'
                      WHEN d.possibly_twice THEN 'uncertain_twice' ELSE d.reason END,
        possibly_twice = d.possibly_twice OR NOT (due.is_over OR due.is_needless),
        due_at = CASE WHEN due.is_needless THEN NULL ELSE CAST(:now AS timestamptz) END
    FROM (
        SELECT delivery.id, campaign.state = '{Campaign.CANCELLED}' AS is_over,
               campaign.state <> '{Campaign.CANCELLED}' AND NOT EXISTS (
                   SELECT FROM delivery_patient dp JOIN patient p ON p.id = dp.patient_id
                   WHERE dp.delivery_id = delivery.id AND p.outcome <> '{Outcome.INFORMED}'
               ) AS is_needless
        FROM delivery JOIN campaign ON campaign.id = delivery.campaign_id
        WHERE delivery.id = ANY(:ids) AND delivery.due_at <= :now
          AND delivery.state = '{Delivery.UNKNOWN}' AND {_HEARD}
        FOR UPDATE OF delivery SKIP LOCKED
    ) due
    WHERE d.id = due.id
    """
)

#: Rows that came back from a worker after their campaign was cancelled.
_STRAYS = text(
    f"""
    WITH hints AS (
        DELETE FROM due WHERE id IN (
            SELECT due.id FROM campaign c JOIN due ON due.campaign_id = c.id
            WHERE c.state = '{Campaign.CANCELLED}' AND due.kind = 'send'
            LIMIT :limit FOR UPDATE OF due SKIP LOCKED
        ) RETURNING ids
    )
    UPDATE delivery d SET state = '{Delivery.CANCELLED}', due_at = :now
    FROM hints WHERE d.id = ANY(hints.ids) AND d.state = '{Delivery.PENDING}'
    """
)

_RESULTS = text(
    f"""
    SELECT id, state FROM delivery
    WHERE id = ANY(:ids) AND due_at <= :now
      AND state IN ('{Delivery.DELIVERED}', '{Delivery.FAILED}', '{Delivery.CANCELLED}', '{Delivery.QUARANTINED}')
    FOR UPDATE SKIP LOCKED
    """
)

_INFORM = text(
    f"""
    UPDATE patient p SET outcome = '{Outcome.INFORMED}', outcome_reason = NULL, outcome_at = :now
    FROM delivery_patient dp
    WHERE dp.delivery_id = ANY(:ids) AND p.id = dp.patient_id AND p.outcome = ANY(:to_informed)
    RETURNING p.id, p.campaign_id
    """
)

#: People of a failed delivery whom no other delivery has informed or still may inform.
_OPEN = f"""
    SELECT DISTINCT p.id, p.campaign_id, p.doctor_id, p.language, p.variant
    FROM delivery_patient dp JOIN patient p ON p.id = dp.patient_id
    WHERE dp.delivery_id = ANY(:ids) AND p.outcome <> '{Outcome.EXCLUDED}'
      AND NOT EXISTS (SELECT FROM told WHERE told.patient_id = p.id)
      AND NOT EXISTS (
        SELECT FROM delivery_patient dp2 JOIN delivery d2 ON d2.id = dp2.delivery_id
        WHERE dp2.patient_id = p.id
          AND (d2.state IN ('{Delivery.ACCEPTED}', '{Delivery.DELIVERED}') OR d2.state IN {_HOPEFUL})
      )
"""


_NEXT = text(reaching.next_contact(_OPEN))
_GIVE_UP = text(reaching.give_up(_OPEN))

#: A further message nobody needs any more: all it is for have been told meanwhile by an earlier one.
_NEEDLESS = text(
    f"""
    UPDATE delivery d SET state = '{Delivery.CANCELLED}', due_at = NULL, reason = '{INFORMED_MEANWHILE}'
    FROM (
        SELECT d2.id FROM delivery d2
        WHERE d2.state IN ('{Delivery.PENDING}', '{Delivery.UNKNOWN}') AND d2.id IN (
            SELECT other.delivery_id FROM delivery_patient told
            JOIN delivery_patient other ON other.patient_id = told.patient_id
            WHERE told.delivery_id = ANY(:ids)
        ) AND NOT EXISTS (
            SELECT FROM delivery_patient dp JOIN patient p ON p.id = dp.patient_id
            WHERE dp.delivery_id = d2.id AND p.outcome <> '{Outcome.INFORMED}'
        )
        FOR UPDATE OF d2 SKIP LOCKED
    ) needless
    WHERE d.id = needless.id AND d.state IN ('{Delivery.PENDING}', '{Delivery.UNKNOWN}')
    """
)

_DONE = text("UPDATE delivery SET due_at = NULL WHERE id = ANY(:ids) AND due_at <= :now")

#: What a campaign is paused by, see `controlling.pause_bouncing`: each result passes here once.
_BOUNCED = text(
    f"""
    INSERT INTO bounce (campaign_id, n)
    SELECT d.campaign_id, count(*)
    FROM delivery d LEFT JOIN bounce b ON b.campaign_id = d.campaign_id
    WHERE d.id = ANY(:ids) AND d.channel = '{Channel.EMAIL}' AND d.state = '{Delivery.FAILED}'
      AND d.reason ~ '{HARD_BOUNCE}' AND (b.since IS NULL OR d.first_tried_at >= b.since)
    GROUP BY d.campaign_id
    ON CONFLICT (campaign_id) DO UPDATE SET n = bounce.n + excluded.n
    """
)

#: Also where everybody was told, what a person has asked to send again is still to go out.
_COMPLETE = text(
    f"""
    UPDATE campaign c SET state = '{Campaign.COMPLETED}', completed_at = :now
    WHERE c.state = '{Campaign.SENDING}'
      AND NOT EXISTS (
        SELECT FROM patient p WHERE p.campaign_id = c.id AND p.outcome = '{Outcome.ON_THE_WAY}'
      )
      AND NOT EXISTS (
        SELECT FROM tally t
        WHERE t.campaign_id = c.id AND t.state IN ('{Delivery.PENDING}', '{Delivery.SENDING}')
        GROUP BY t.campaign_id HAVING sum(t.n) > 0
      )
    RETURNING c.id
    """
)

_REOPEN = text(
    f"""
    UPDATE campaign c SET state = '{Campaign.SENDING}', completed_at = NULL
    WHERE c.state = '{Campaign.COMPLETED}'
      AND EXISTS (SELECT FROM patient p WHERE p.campaign_id = c.id AND p.outcome = '{Outcome.ON_THE_WAY}')
    RETURNING c.id
    """
)


def settle(session: Session, profile: Profile, *, now: datetime, limit: int = 1000) -> Settled:
    """Decides silence and uncertainty, hands results on to people, and completes campaigns.

    About `limit` deliveries, in one transaction of the caller. One process at a time: another
    one that comes meanwhile finds nothing to do.
    """
    if not store.settle_alone(session, wait=False):
        return Settled()
    informing = [str(channel) for channel, silence in profile.silence.items() if silence.means == "informed"]
    session.execute(_STRAYS, {"now": now, "limit": limit})
    taken = list(session.scalars(_TAKE, {"now": now, "limit": limit}))
    values = {"now": now, "ids": taken, "informing": informing, "to_failed": sources(Delivery.FAILED)}
    silent = list(session.scalars(_SILENT_EMAIL, values))
    session.execute(_SILENT_SMS, values)
    session.execute(_UNCERTAIN, values)
    results = session.execute(_RESULTS, values).all()
    good = silent + [row.id for row in results if row.state == Delivery.DELIVERED]
    bad = [row.id for row in results if row.state != Delivery.DELIVERED]
    informed = _count(session, _INFORM, ids=good, now=now, to_informed=sources(Outcome.INFORMED))
    if good:
        session.execute(_NEEDLESS, {"ids": good})
    moved: list[int] = []
    unreached = 0
    if bad:
        store.doubt_informed(session, bad, now=now)
        moved = list(
            session.scalars(_NEXT, {"ids": bad, "now": now, "to_on_the_way": sources(Outcome.ON_THE_WAY)})
        )
        session.execute(_BOUNCED, {"ids": bad})
        unreached = _count(
            session, _GIVE_UP, ids=bad, now=now, to_unreached=sources(Outcome.UNREACHED), moved=moved
        )
    session.execute(_DONE, {"ids": [row.id for row in results], "now": now})
    session.execute(_AGAIN, {"ids": taken, "now": now})
    completed = _count(session, _COMPLETE, now=now)
    session.execute(_REOPEN)
    return Settled(len(taken), len(silent) + len(results), informed, len(moved), unreached, completed)


def _count(session: Session, statement: TextClause, **values: Any) -> int:
    return len(session.execute(statement, values).all())
