"""How the engine stands, from the database alone: what waits, is under way, stopped or wrong; who is at work.

Read by the command line and the API. Every query costs about the same with 1,500 campaigns and 15,000,000
deliveries as with one: it goes by `tally`, `due`, `pace` and `heartbeat`, never through deliveries or patients.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from notifier import breakers, store
from notifier.models import Campaign, Hold
from notifier.providers.base import Kind
from notifier.sealing import MARK_BYTES
from notifier.states import Campaign as State
from notifier.states import Channel
from notifier.states import Delivery as DeliveryState

#: a worker not heard of for so long is taken for gone, and is still shown for a minute
ALIVE_S, _SHOWN_S = 10.0, 60.0
#: hints looked at when counting what is due: of a very large backlog only the first part is counted
MOST_HINTS = 20_000
#: stored receipts are counted up to this
MOST_RECEIPTS = 200_000
#: why a campaign is held that is only at its own limit
RATE_LIMIT = "rate_limit"


class Waiting(NamedTuple):
    """What waits to be sent on one channel in campaigns that are sending."""

    #: in all, also what is due later
    pending: int
    #: due now (of a very large backlog, its first part)
    due: int
    #: how long the oldest is due; None if nothing is
    oldest_due_s: float | None


_PENDING = text(
    f"""
    SELECT t.channel, sum(t.n) AS n FROM tally t JOIN campaign c ON c.id = t.campaign_id
    WHERE c.state = '{State.SENDING}' AND t.state = '{DeliveryState.PENDING}' GROUP BY t.channel
    """  # noqa: S608 - put together from our own states, as below
)
#: By ix_due_send: both values of `together` are named, so that `at` is read in its order. A statement for each
#: channel, without parameters: the plan that PostgreSQL makes for any channel takes five times as long.
_DUE = {
    channel: text(
        f"""
        SELECT coalesce(sum(cardinality(few.ids)), 0) FROM (
            SELECT due.ids FROM campaign c
            CROSS JOIN (VALUES (false), (true)) AS side (together)
            JOIN due ON due.campaign_id = c.id AND due.together = side.together
            WHERE c.state = '{State.SENDING}'
              AND due.kind = 'send' AND due.channel = '{channel}' AND due.at <= now()
            LIMIT {MOST_HINTS}
        ) few
        """  # noqa: S608
    )
    for channel in Channel
}
_OLDEST = {
    channel: text(
        f"""
        SELECT extract(epoch FROM now() - min(oldest.at))::float8 FROM campaign c
        CROSS JOIN (VALUES (false), (true)) AS side (together)
        CROSS JOIN LATERAL (
            SELECT due.at FROM due
            WHERE due.kind = 'send' AND due.campaign_id = c.id AND due.channel = '{channel}'
              AND due.together = side.together AND due.at <= now()
            ORDER BY due.at LIMIT 1
        ) oldest
        WHERE c.state = '{State.SENDING}'
        """  # noqa: S608
    )
    for channel in Channel
}
_STATES = text("SELECT channel, state, sum(n) AS n FROM tally GROUP BY channel, state")
_LEASES = text(
    """
    SELECT count(*) AS leases, coalesce(sum(cardinality(ids)), 0) AS claimed,
           count(*) FILTER (WHERE at < now()) AS expired
    FROM due WHERE kind = 'lease'
    """
)
#: How long a provider has been at work within the last minute, so that a rate can be told from the start on.
_PACE = text(
    """
    SELECT provider, coalesce(sum(n) FILTER (WHERE outcome = 'accepted'), 0) AS accepted, sum(n) AS ended,
           least(greatest(extract(epoch FROM now() - min(at))::float8, 10), 60) AS seconds
    FROM pace WHERE at > now() - interval '1 minute' GROUP BY provider
    """
)
_REFUSED = text(
    """
    SELECT provider, code, sum(n) AS n FROM pace
    WHERE outcome = 'refused' AND code ~ :our_fault AND at > now() - interval '15 minutes'
    GROUP BY provider, code HAVING sum(n) >= :least ORDER BY provider, code
    """
)
#: What a worker carries is known by its name (worker:email+sms:…), else by what it has handed over lately.
_WORKERS = text(
    """
    SELECT h.process, extract(epoch FROM now() - h.at)::float8 AS age_s,
           ARRAY(
               SELECT DISTINCT p.provider FROM pace p
               WHERE h.process LIKE '%:' || p.process AND p.at > now() - interval '15 minutes'
           ) AS carried
    FROM heartbeat h WHERE h.process LIKE 'worker:%' AND h.at > now() - make_interval(secs => :shown_s)
    ORDER BY h.process
    """
)
#: by which master keys campaigns are sealed from which anything may yet be sent, tests too
_KEYS_NEEDED = text(
    """
    SELECT DISTINCT encode(substr(data_key, 1, :bytes), 'hex') FROM campaign
    WHERE data_key IS NOT NULL AND state NOT IN ('completed', 'cancelled')
    """
)
#: by the youngest sign of life: names of workers change with every start
_ROLES = text(
    """
    SELECT split_part(process, ':', 1) AS role, extract(epoch FROM now() - max(at))::float8 AS age
    FROM heartbeat GROUP BY role
    """
)
#: how hand-overs of the last 15 minutes ended; by pk_pace, as all that reads `pace`
_ENDED = text(
    """
    SELECT provider, receiver, outcome, code, sum(n) AS n FROM pace
    WHERE at > now() - interval '15 minutes' GROUP BY provider, receiver, outcome, code
    """
)
#: by minute of the last hour, 0 is the one that runs
_HISTORY = text(
    """
    SELECT provider, floor(extract(epoch FROM now() - at) / 60)::int AS minutes_ago, sum(n) AS n FROM pace
    WHERE at > now() - interval '1 hour' AND at <= now() AND outcome = 'accepted' GROUP BY provider, minutes_ago
    """
)
#: what is not over, and what is; the channels of a campaign come together
_LEFT = text(
    f"""
    SELECT c.id, c.state, c.reason, c.started_at, d.reference AS doctor, t.waiting, t.failed, t.total
    FROM (
        SELECT campaign_id, sum(n) AS total,
               coalesce(sum(n) FILTER (WHERE state = '{DeliveryState.FAILED}'), 0) AS failed,
               coalesce(sum(n) FILTER (WHERE state IN (
                   '{DeliveryState.PENDING}', '{DeliveryState.SENDING}', '{DeliveryState.UNKNOWN}'
               )), 0) AS waiting
        FROM tally GROUP BY campaign_id
    ) t JOIN campaign c ON c.id = t.campaign_id JOIN doctor d ON d.id = c.doctor_id
    WHERE c.state = :state AND t.waiting > 0 ORDER BY t.waiting DESC, c.id LIMIT :most
    """  # noqa: S608
)
_TESTS = text("SELECT count(*) FROM test_send WHERE state = 'queued'")
_UNAPPLIED = text("SELECT count(*) FROM (SELECT FROM receipt WHERE applied_at IS NULL LIMIT :most) few")


def waiting(session: Session) -> dict[Channel, Waiting]:
    """What waits, by channel. Campaigns that are paused or over are not counted."""
    pending = {row.channel: int(row.n) for row in session.execute(_PENDING)}
    found = {}
    for channel in Channel:
        due = int(session.scalar(_DUE[channel]) or 0)
        oldest = session.scalar(_OLDEST[channel])
        # A hint too many is possible, a delivery too many is not.
        found[channel] = Waiting(pending.get(channel, 0), min(due, pending.get(channel, 0)), _seconds(oldest))
    return found


def states(session: Session) -> dict[tuple[str, str], int]:
    """How many deliveries there are, by channel and state."""
    return {(row.channel, row.state): int(row.n) for row in session.execute(_STATES)}


def receipts_waiting(session: Session) -> int:
    """Stored but not yet applied."""
    return int(session.scalar(_UNAPPLIED, {"most": MOST_RECEIPTS}) or 0)


def expired_leases(session: Session) -> int:
    """Claims whose worker is gone, until the sweeper has settled them."""
    return int(session.execute(_LEASES).one().expired)


def ages(session: Session) -> dict[str, float]:
    """Seconds since each role (feeder, sweeper, the youngest worker) was last at work."""
    return {row.role: max(row.age, 0.0) for row in session.execute(_ROLES)}


def refused(session: Session, our_fault: str, least: int) -> list[dict[str, Any]]:
    """Refusals of the last 15 minutes whose code matches `our_fault`, from `least` of one kind on."""
    rows = session.execute(_REFUSED, {"our_fault": our_fault, "least": least})
    return [{"provider": row.provider, "code": row.code, "count": int(row.n)} for row in rows]


class Ended(NamedTuple):
    """How hand-overs of a provider to one group of receivers ended in the last 15 minutes."""

    provider: str
    #: "" for SMS
    receiver: str
    accepted: int
    refused: int
    unknown: int
    #: codes of those that were not accepted, the most frequent first
    codes: list[tuple[str, int]]

    @property
    def wrong_share(self) -> float:
        """The part that was not accepted."""
        return (self.refused + self.unknown) / max(self.accepted + self.refused + self.unknown, 1)


def ended(session: Session) -> list[Ended]:
    """By provider and group of receivers, those with most errors first."""
    found: dict[tuple[str, str], dict[str, int]] = {}
    codes: dict[tuple[str, str], dict[str, int]] = {}
    for row in session.execute(_ENDED):
        counts = found.setdefault((row.provider, row.receiver), {})
        counts[row.outcome] = counts.get(row.outcome, 0) + int(row.n)
        if row.outcome != Kind.ACCEPTED:
            of = codes.setdefault((row.provider, row.receiver), {})
            of[row.code] = of.get(row.code, 0) + int(row.n)
    rows = [
        Ended(
            provider,
            receiver,
            counts.get(Kind.ACCEPTED, 0),
            counts.get(Kind.REFUSED, 0),
            counts.get(Kind.UNKNOWN, 0),
            sorted(codes.get((provider, receiver), {}).items(), key=lambda one: (-one[1], one[0])),
        )
        for (provider, receiver), counts in found.items()
    ]
    return sorted(rows, key=lambda row: (-(row.refused + row.unknown), row.provider, row.receiver))


def history(session: Session, minutes: int = 60) -> dict[str, list[int]]:
    """By provider: hand-overs accepted in each whole minute of the last hour, the oldest first."""
    found: dict[str, list[int]] = {}
    for row in session.execute(_HISTORY):
        if 1 <= row.minutes_ago <= minutes:
            found.setdefault(row.provider, [0] * minutes)[minutes - row.minutes_ago] = int(row.n)
    return found


class Left(NamedTuple):
    """A campaign with deliveries that are not over."""

    id: int
    state: str
    reason: str | None
    started_at: datetime | None
    #: the doctor's reference
    doctor: str
    waiting: int
    failed: int
    total: int


def slowest(session: Session, state: State = State.SENDING, most: int = 20) -> list[Left]:
    """Campaigns in this state by what is left of them, most first."""
    return [
        Left(
            row.id,
            row.state,
            row.reason,
            row.started_at,
            row.doctor,
            int(row.waiting),
            int(row.failed),
            int(row.total),
        )
        for row in session.execute(_LEFT, {"state": state, "most": most})
    ]


def holds(session: Session) -> list[Hold]:
    """What is stopped now."""
    in_force = (Hold.until.is_(None)) | (Hold.until > func.now())
    return list(session.scalars(select(Hold).where(in_force).order_by(Hold.scope)))


def read(session: Session, carriers: Mapping[str, Channel], limits: Mapping[str, float]) -> dict[str, Any]:
    """Everything at a look; times in seconds on the database's clock.

    `carriers` says which channel each provider carries, `limits` how many hand-overs a second each may make.
    """
    waits = waiting(session)
    counts: dict[str, int] = {}
    for (_, state), n in states(session).items():
        counts[state] = counts.get(state, 0) + n
    leases = session.execute(_LEASES).one()
    pace = {row.provider: row for row in session.execute(_PACE)}
    workers = _workers(session, carriers)
    by_role = ages(session)
    campaigns = select(Campaign.state, func.count()).group_by(Campaign.state)
    paused = select(Campaign.id, Campaign.reason).where(Campaign.state == State.PAUSED).order_by(Campaign.id)
    held = holds(session)
    throttled = [hold for hold in held if hold.reason == RATE_LIMIT and hold.scope.startswith("campaign:")]
    per_s = {name: row.accepted / row.seconds for name, row in pace.items()}
    return {
        "due": {str(channel): wait._asdict() for channel, wait in waits.items()},
        "forecast": {
            str(channel): forecast(
                wait.pending,
                sum(per_s.get(name, 0.0) for name, carried in carriers.items() if carried == channel),
                sum(limits[name] for name, carried in carriers.items() if carried == channel and name in limits),
            )
            for channel, wait in waits.items()
        },
        "rate_per_min": dict.fromkeys(carriers, 0) | {name: int(row.accepted) for name, row in pace.items()},
        "ended_per_min": dict.fromkeys(carriers, 0) | {name: int(row.ended) for name, row in pace.items()},
        "limit_per_s": dict(limits),
        "throttled": [{"campaign": int(hold.scope.partition(":")[2]), "until": hold.until} for hold in throttled],
        "breakers": [
            {name: getattr(scope, name) for name in ("scope", "state", "level", "until", "reason")}
            for scope in breakers.open_scopes(session)
        ],
        **{
            str(state): counts.get(state, 0)
            for state in (DeliveryState.SENDING, DeliveryState.UNKNOWN, DeliveryState.QUARANTINED)
        },
        "leases": leases.leases,
        "claimed": int(leases.claimed),
        "expired_leases": leases.expired,
        "receipts_waiting": receipts_waiting(session),
        "workers": workers,
        "workers_alive": sum(worker["age_s"] <= ALIVE_S for worker in workers),
        "without_key": without_key(session),
        "feeder_age_s": _seconds(by_role.get("feeder")),
        "sweeper_age_s": _seconds(by_role.get("sweeper")),
        "test_sender_age_s": _seconds(by_role.get("control")),
        "tests_waiting": session.scalar(_TESTS),
        "campaigns": {str(state): count for state, count in session.execute(campaigns)},
        "paused": [{"campaign": row.id, "reason": row.reason} for row in session.execute(paused)],
        "holds": [
            {name: getattr(hold, name) for name in ("scope", "reason", "by", "since", "until")}
            for hold in held
            if hold not in throttled
        ],
    }


def without_key(session: Session) -> list[dict[str, Any]]:
    """Master keys that are needed now, and the processes at work that were not given them."""
    needed = session.scalars(_KEYS_NEEDED, {"bytes": MARK_BYTES}).all()
    found = store.without_key(session, needed, ALIVE_S)
    return [{"key": key, "processes": processes} for key, processes in found.items()]


def forecast(pending: int, per_s: float, limit_per_s: float) -> dict[str, Any]:
    """When what waits is sent: `done_in_s` at this rate (None while nothing moves), `at_best_s` at the limit.

    What is due later, or throttled by a receiver, may take longer.
    """
    speed = min(per_s, limit_per_s) if limit_per_s else per_s
    return {
        "per_s": round(per_s, 1),
        "done_in_s": 0.0 if not pending else round(pending / speed, 1) if speed else None,
        "at_best_s": round(pending / limit_per_s, 1) if limit_per_s else None,
    }


def _workers(session: Session, carriers: Mapping[str, Channel]) -> list[dict[str, Any]]:
    found = []
    for row in session.execute(_WORKERS, {"shown_s": _SHOWN_S}):
        named = {str(channel) for channel in Channel} & set(row.process.split(":")[1].split("+"))
        channels = sorted(named or {str(carriers[name]) for name in row.carried if name in carriers})
        found.append({"process": row.process, "age_s": _seconds(row.age_s), "channels": channels})
    return found


def _seconds(value: float | None) -> float | None:
    return None if value is None else round(max(value, 0.0), 1)
