"""The database: engine, transactions under a role, migrations, and every statement that claims, writes in
bulk or counts.

A transaction is opened for one of two roles (see the first migration): `doctor(id)` sees that doctor's
rows only, enforced by PostgreSQL; `staff()` sees all. The login role itself is never used for work.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import Connection, Engine, TextClause, create_engine, text
from sqlalchemy.exc import DBAPIError, OperationalError, ProgrammingError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.orm import Session

from notifier.errors import ServiceError
from notifier.models import Journal
from notifier.states import Campaign, Channel, Delivery, Outcome, sources

if TYPE_CHECKING:
    from alembic.config import Config

OLDEST_POSTGRESQL = 15
_UTC = "-c timezone=UTC"
#: one migration at a time, whoever starts it
_MIGRATION_LOCK = 7300


class Database:
    """Connections to one database. Cheap to make; connects when first used."""

    def __init__(self, url: str, *, pool_size: int = 10) -> None:
        self.url = url
        # UTC, whatever the server's own zone: texts of instants must mean the same everywhere.
        self.engine: Engine = create_engine(
            url, pool_size=pool_size, max_overflow=10, pool_pre_ping=True, connect_args={"options": _UTC}
        )

    @contextmanager
    def staff(self) -> Iterator[Session]:
        """A transaction that sees all doctors; committed at the end, rolled back by an exception."""
        with Session(self.engine, expire_on_commit=False) as session, session.begin():
            session.execute(text("SELECT set_config('role', 'notifier_staff', true)"))
            yield session

    @contextmanager
    def doctor(self, doctor_id: int) -> Iterator[Session]:
        """A transaction in which only this doctor's rows exist (row-level security)."""
        with Session(self.engine, expire_on_commit=False) as session, session.begin():
            session.execute(
                text(
                    "SELECT set_config('role', 'notifier_doctor', true), "
                    "set_config('notifier.doctor_id', :doctor_id, true)"
                ),
                {"doctor_id": str(doctor_id)},
            )
            yield session

    def scope(self, doctor_id: int | None) -> Any:
        """`staff()` for None, else `doctor(doctor_id)`: the transaction a caller may have."""
        return self.staff() if doctor_id is None else self.doctor(doctor_id)

    def check(self) -> None:
        """Raises ServiceError if PostgreSQL is away, too old, not migrated, or the role could bypass."""
        with _said_plainly(), self.engine.connect() as connection:
            check_version(connection)
            # Alembic is needed at start alone, and its import is felt by every command.
            from alembic.runtime.migration import MigrationContext
            from alembic.script import ScriptDirectory

            current = MigrationContext.configure(connection).get_current_revision()
            newest = ScriptDirectory.from_config(_alembic()).get_current_head()
            if current != newest:
                raise ServiceError(
                    f"The database is at migration {current or 'none'}, this program needs {newest}: "
                    "run `notifier migrate`."
                )
        with _said_plainly(), self.staff() as session:
            if session.scalar(text("SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user")):
                raise ServiceError(
                    "The role notifier_staff may bypass row-level security; remove BYPASSRLS from it."
                )

    def dispose(self) -> None:
        """Closes the pool's connections."""
        self.engine.dispose()


class AsyncDatabase:
    """The worker's connections: role `notifier_staff` for good, statements in autocommit or a transaction."""

    def __init__(self, url: str, *, pool_size: int = 6) -> None:
        # Each connection starts as notifier_staff; an error at connect must not leave it with more rights.
        self.engine: AsyncEngine = create_async_engine(
            url,
            pool_size=pool_size,
            max_overflow=pool_size,
            pool_timeout=10,
            connect_args={
                "options": f"-c role=notifier_staff {_UTC}",
                "connect_timeout": 5,
                "prepare_threshold": 2,
            },
        )

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[AsyncConnection]:
        """A transaction, committed at the end. No provider call may happen inside."""
        async with self.engine.begin() as connection:
            yield connection

    async def dispose(self) -> None:
        await self.engine.dispose()


@contextmanager
def _said_plainly() -> Iterator[None]:
    try:
        yield
    except OperationalError as error:
        # The driver's text names host and database, never a person.
        raise ServiceError(f"PostgreSQL does not answer at DATABASE_URL: {error.orig}") from error
    except ProgrammingError as error:
        if getattr(error.orig, "sqlstate", None) != "42501":  # insufficient_privilege
            raise
        raise ServiceError(
            "The user of DATABASE_URL may not act as notifier_doctor and notifier_staff: "
            f"GRANT both to it. PostgreSQL said: {error.orig}"
        ) from error


def check_version(connection: Connection) -> None:
    """Raises ServiceError for a PostgreSQL older than 15 (NULLS NOT DISTINCT came with it)."""
    version = connection.scalar(text("SHOW server_version_num"))
    if int(version) < OLDEST_POSTGRESQL * 10000:
        raise ServiceError(
            f"PostgreSQL {int(version) // 10000} is too old: {OLDEST_POSTGRESQL} or newer is needed. "
            "Upgrade the server behind DATABASE_URL."
        )


def _alembic() -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config


def migrate(url: str) -> None:
    """Brings the database to the newest migration, as the login user of `url`; safe to run at any time.

    Raises ServiceError if PostgreSQL is away or too old, or the user may not create the two roles.
    """
    from alembic import command

    engine = create_engine(url)
    try:
        with _said_plainly(), engine.begin() as connection:
            check_version(connection)
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
            config = _alembic()
            config.attributes["connection"] = connection
            try:
                command.upgrade(config, "head")
            except DBAPIError as error:
                if getattr(error.orig, "sqlstate", None) != "42501":  # insufficient_privilege
                    raise
                raise ServiceError(
                    "The user of DATABASE_URL may not create the roles notifier_doctor and notifier_staff, or not "
                    "use the schema public. Run `notifier migrate` once with a user that has CREATEROLE, or "
                    f"create the roles by hand and grant them to it. PostgreSQL said: {error.orig}"
                ) from error
    finally:
        engine.dispose()


def record(
    session: Session,
    actor: str,
    action: str,
    subject: str,
    doctor_id: int | None = None,
    detail: dict[str, Any] | None = None,
) -> None:
    """Adds one act of a person to the journal, in the transaction of the act itself."""
    session.add(Journal(actor=actor, action=action, subject=subject, doctor_id=doctor_id, detail=detail or {}))
    session.flush()


def broken_journal_entries(session: Session) -> list[int]:
    """Ids of journal entries whose hash or link does not hold; empty when the chain is whole."""
    rows = session.execute(
        text(
            """
            SELECT id FROM (
                SELECT j.id, j.hash, j.previous, journal_hash(j) AS expected,
                       lag(j.hash) OVER (ORDER BY j.id) AS before
                FROM journal j
            ) chain
            WHERE hash IS DISTINCT FROM expected OR previous IS DISTINCT FROM before
            ORDER BY id
            """
        )
    )
    return [row.id for row in rows]


# --- sending -------------------------------------------------------------------------------------------

#: No row of `hold` stands in the way of this channel and provider.
_FREE = """
    NOT EXISTS (
        SELECT FROM hold
        WHERE scope IN ('everything', 'channel:' || :channel, 'provider:' || :provider)
          AND (until IS NULL OR until > now())
    )
"""


def _claim(crashed: str) -> TextClause:
    return text(
        f"""
        WITH due AS (
            SELECT d.id FROM delivery d
            JOIN campaign c ON c.id = d.campaign_id
            WHERE d.campaign_id = :campaign_id AND d.channel = :channel
              AND d.state = '{Delivery.PENDING}' AND d.due_at <= now() AND {crashed}
              AND c.state = '{Campaign.SENDING}' AND c.epoch = :epoch AND {_FREE}
            ORDER BY d.due_at
            LIMIT :rows FOR UPDATE OF d SKIP LOCKED
        )
        UPDATE delivery d
        SET state = '{Delivery.LEASED}', lease_owner = :owner, fence = d.fence + 1,
            lease_until = now() + make_interval(secs => :lease_s)
        FROM due JOIN delivery d2 ON d2.id = due.id
            JOIN contact ON contact.id = d2.contact_id
            LEFT JOIN patient ON patient.id = d2.addressee_id
        WHERE d.id = due.id
        RETURNING d.id, d.fence, d.language, d.variant, d.tries, d.crashes, d.possibly_twice, d.first_tried_at,
            contact.value_sealed, patient.identity_sealed
        """
    )


#: Rows that were in the hands of a worker when it died are taken first, because they have waited longest, and in
#: ever smaller company, so that the one that kills is found and its neighbours are not blamed: (statement, most
#: rows) for two crashes and more, one crash, none. The first two are served by a small index of their own.
_CLAIMS: tuple[tuple[TextClause, int | None], ...] = (
    (_claim("d.crashes > 0 AND d.crashes >= 2"), 1),
    (_claim("d.crashes > 0 AND d.crashes = 1"), 10),
    (_claim("d.crashes = 0"), None),
)

_INTEND = text(
    f"""
    WITH wanted AS (
        SELECT * FROM unnest(
            CAST(:ids AS bigint[]), CAST(:fences AS int[]), CAST(:notices AS bigint[])
        ) AS w (id, fence, notice_id)
    ), moved AS (
        UPDATE delivery d
        SET state = '{Delivery.SENDING}', tries = d.tries + 1,
            first_tried_at = coalesce(d.first_tried_at, now()),
            lease_until = now() + make_interval(secs => :lease_s)
        FROM wanted w, campaign c
        WHERE d.id = w.id AND d.fence = w.fence AND d.lease_owner = :owner
          AND d.state = '{Delivery.LEASED}'
          AND c.id = d.campaign_id AND c.state = '{Campaign.SENDING}' AND c.epoch = :epoch AND {_FREE}
        RETURNING d.id, d.fence, d.doctor_id, w.notice_id
    )
    INSERT INTO attempt (delivery_id, doctor_id, fence, provider, notice_id)
    SELECT id, doctor_id, fence, :provider, notice_id FROM moved
    RETURNING delivery_id
    """
)

#: A result may find the row already marked unknown by the sweeper: knowledge beats ignorance, and the
#: fence proves that nobody claimed the row in between. A receipt that came first has moved the row on:
#: then only the attempt is closed.
_CLOSE = text(
    f"""
    WITH result AS (
        SELECT * FROM unnest(
            CAST(:ids AS bigint[]), CAST(:fences AS int[]), CAST(:states AS text[]),
            CAST(:due AS timestamptz[]), CAST(:uncounted AS int[]), CAST(:outcomes AS text[]),
            CAST(:codes AS text[]), CAST(:message_ids AS text[]), CAST(:raws AS bytea[])
        ) AS r (id, fence, state, due_at, uncounted, outcome, code, message_id, raw)
    ), closed AS (
        UPDATE attempt a
        SET ended_at = now(), outcome = r.outcome, code = r.code,
            provider_message_id = r.message_id, raw_sealed = r.raw
        FROM result r
        WHERE a.delivery_id = r.id AND a.fence = r.fence
          AND (a.ended_at IS NULL OR a.outcome = 'unknown')
    )
    UPDATE delivery d
    SET state = r.state, due_at = r.due_at, tries = greatest(d.tries - r.uncounted, 0),
        -- a worker that reports after its lease was slow, not dead
        crashes = CASE WHEN d.state = '{Delivery.UNKNOWN}' THEN greatest(d.crashes - 1, 0) ELSE d.crashes END,
        reason = r.code, lease_owner = NULL, lease_until = NULL
    FROM result r
    WHERE d.id = r.id AND d.fence = r.fence AND d.state IN ('{Delivery.SENDING}', '{Delivery.UNKNOWN}')
    RETURNING d.id
    """
)

_RELEASE = text(
    f"""
    UPDATE delivery d
    SET state = '{Delivery.PENDING}', lease_owner = NULL, lease_until = NULL,
        due_at = coalesce(CAST(:due_at AS timestamptz), d.due_at)
    FROM unnest(CAST(:ids AS bigint[]), CAST(:fences AS int[])) AS w (id, fence)
    WHERE d.id = w.id AND d.fence = w.fence AND d.lease_owner = :owner AND d.state = '{Delivery.LEASED}'
    """
)


_QUARANTINE = text(
    f"""
    UPDATE delivery d
    SET state = '{Delivery.QUARANTINED}', lease_owner = NULL, lease_until = NULL, due_at = now(), reason = :reason
    FROM unnest(CAST(:ids AS bigint[]), CAST(:fences AS int[])) AS w (id, fence)
    WHERE d.id = w.id AND d.fence = w.fence AND d.lease_owner = :owner AND d.state = '{Delivery.LEASED}'
    """
)

#: A lease that ran out before any byte went out is simply due again. The count of crashes tells a row that
#: kills its worker from one that was only nearby: see COMPANY.
_EXPIRED_LEASED = text(
    f"""
    UPDATE delivery d
    SET state = CASE WHEN d.crashes + 1 >= :max_crashes THEN '{Delivery.QUARANTINED}'
                     ELSE '{Delivery.PENDING}' END,
        crashes = d.crashes + 1, lease_owner = NULL, lease_until = NULL,
        due_at = CASE WHEN d.crashes + 1 >= :max_crashes THEN now() ELSE d.due_at END,
        reason = CASE WHEN d.crashes + 1 >= :max_crashes THEN 'worker_crashed' ELSE d.reason END
    FROM (
        SELECT id FROM delivery WHERE state = '{Delivery.LEASED}' AND lease_until < now()
        LIMIT :limit FOR UPDATE SKIP LOCKED
    ) expired
    WHERE d.id = expired.id RETURNING d.id
    """
)

#: A row whose worker vanished in mid-call may have been sent: it waits for a receipt or the quiet time.
_EXPIRED_SENDING = text(
    f"""
    WITH expired AS (
        SELECT d.id, d.channel, d.fence FROM delivery d
        WHERE d.state = '{Delivery.SENDING}' AND d.lease_until < now()
        LIMIT :limit FOR UPDATE SKIP LOCKED
    ), closed AS (
        UPDATE attempt a SET ended_at = now(), outcome = 'unknown', code = 'worker_gone'
        FROM expired e WHERE a.delivery_id = e.id AND a.fence = e.fence AND a.ended_at IS NULL
    )
    UPDATE delivery d
    SET state = '{Delivery.UNKNOWN}', crashes = d.crashes + 1, reason = 'worker_gone',
        lease_owner = NULL, lease_until = NULL,
        due_at = now() + make_interval(secs => (CAST(:quiet_s AS jsonb)->>e.channel)::float8)
    FROM expired e WHERE d.id = e.id RETURNING d.id
    """
)

#: Attempts whose row was moved on by a receipt while the worker died.
_LEFT_OPEN = text(
    f"""
    UPDATE attempt a SET ended_at = now(), outcome = 'unknown', code = 'worker_gone'
    FROM delivery d
    WHERE a.ended_at IS NULL AND a.started_at < now() - make_interval(secs => :older_s)
      AND d.id = a.delivery_id AND (d.state <> '{Delivery.SENDING}' OR d.fence <> a.fence)
    """
)

_HOLD = text(
    """
    INSERT INTO hold (scope, reason, until, "by") VALUES (:scope, :reason, :until, :by)
    ON CONFLICT (scope) DO UPDATE
        SET until = excluded.until, reason = excluded.reason, "by" = excluded."by", since = now()
        -- a longer hold stays, whoever set it
        WHERE hold.until < excluded.until
    """
)

_CONTROLS = text(
    """
    SELECT 'campaign' AS kind, id::text AS scope, state AS reason, epoch FROM campaign WHERE id = ANY(:campaigns)
    UNION ALL
    SELECT 'hold', scope, reason, 0 FROM hold WHERE until IS NULL OR until > now()
    """
)


class Claimed(NamedTuple):
    """One row under our lease, with what is needed to write to the person, still sealed."""

    id: int
    fence: int
    language: str
    variant: str
    tries: int
    crashes: int
    possibly_twice: bool
    first_tried_at: datetime | None
    value_sealed: bytes
    identity_sealed: bytes | None


class Result(NamedTuple):
    """How one attempt ended and what becomes of its row."""

    id: int
    fence: int
    state: Delivery
    due_at: datetime | None
    #: 1 if the hand-over does not count as a try (throttled, our own fault)
    uncounted: int
    outcome: str
    code: str
    message_id: str | None
    raw: bytes | None


async def claim(
    connection: AsyncConnection,
    *,
    campaign_id: int,
    epoch: int,
    channel: Channel,
    provider: str,
    owner: str,
    lease: timedelta,
    rows: int,
) -> list[Claimed]:
    """Takes up to `rows` due deliveries under a lease; the count tells what was free.

    Those that were near a crash come first: they have waited longest, and are few.
    """
    for statement, company in _CLAIMS:
        answer = await connection.execute(
            statement,
            {
                "campaign_id": campaign_id,
                "epoch": epoch,
                "channel": channel,
                "provider": provider,
                "owner": owner,
                "lease_s": lease.total_seconds(),
                "rows": rows if company is None else min(company, rows),
            },
        )
        if claimed := [Claimed(*row) for row in answer]:
            return claimed
    return []


async def intend(
    connection: AsyncConnection,
    rows: Sequence[tuple[int, int, int]],
    *,
    owner: str,
    epoch: int,
    channel: Channel,
    provider: str,
    lease: timedelta,
) -> set[int]:
    """Marks (id, fence, notice id) as `sending` and opens their attempts; returns the ids that may go out.

    A row is left out if the campaign, its channel, provider or everything was stopped meanwhile, or if the
    lease was lost.
    """
    answer = await connection.execute(
        _INTEND,
        {
            "ids": [row[0] for row in rows],
            "fences": [row[1] for row in rows],
            "notices": [row[2] for row in rows],
            "owner": owner,
            "epoch": epoch,
            "channel": channel,
            "provider": provider,
            "lease_s": lease.total_seconds(),
        },
    )
    return {row.delivery_id for row in answer}


async def close(connection: AsyncConnection, results: Sequence[Result]) -> int:
    """Writes how attempts ended; returns how many rows moved (fewer when a receipt was faster)."""
    columns = list(zip(*results, strict=True))
    answer = await connection.execute(
        _CLOSE,
        {
            "ids": list(columns[0]),
            "fences": list(columns[1]),
            "states": [str(state) for state in columns[2]],
            "due": list(columns[3]),
            "uncounted": list(columns[4]),
            "outcomes": list(columns[5]),
            "codes": list(columns[6]),
            "message_ids": list(columns[7]),
            "raws": list(columns[8]),
        },
    )
    return len(answer.all())


async def release(
    connection: AsyncConnection, rows: Sequence[tuple[int, int]], owner: str, due_at: datetime | None = None
) -> None:
    """Gives back claimed rows (id, fence) that were not sent, to be due at once or at `due_at`."""
    await connection.execute(
        _RELEASE,
        {"ids": [row[0] for row in rows], "fences": [row[1] for row in rows], "owner": owner, "due_at": due_at},
    )


async def quarantine(
    connection: AsyncConnection, rows: Sequence[tuple[int, int]], owner: str, reason: str
) -> None:
    """Sets claimed rows (id, fence) aside for a person: they cannot be rendered."""
    await connection.execute(
        _QUARANTINE,
        {"ids": [row[0] for row in rows], "fences": [row[1] for row in rows], "owner": owner, "reason": reason},
    )


def sweep(
    session: Session, *, quiet: Mapping[Channel, timedelta], lease: timedelta, max_crashes: int, limit: int
) -> int:
    """Gives back what vanished workers held; returns how many rows moved. Small batches, safe to repeat."""
    leased = session.execute(_EXPIRED_LEASED, {"limit": limit, "max_crashes": max_crashes})
    seconds = {str(channel): wait.total_seconds() for channel, wait in quiet.items()}
    sending = session.execute(_EXPIRED_SENDING, {"limit": limit, "quiet_s": json.dumps(seconds)})
    session.execute(_LEFT_OPEN, {"older_s": 2 * lease.total_seconds()})
    session.execute(text("DELETE FROM hold WHERE until < now() - interval '1 minute'"))
    session.execute(text("DELETE FROM heartbeat WHERE at < now() - interval '1 day'"))
    return len(leased.all()) + len(sending.all())


_DUE = text(
    f"""
    SELECT c.id, c.epoch FROM campaign c
    WHERE c.state = '{Campaign.SENDING}'
      AND EXISTS (
        SELECT FROM delivery d WHERE d.campaign_id = c.id AND d.channel = :channel
          AND d.state = '{Delivery.PENDING}' AND d.due_at <= now()
      )
      AND NOT EXISTS (
        SELECT FROM hold WHERE scope IN ('everything', 'channel:' || :channel)
          AND (until IS NULL OR until > now())
      )
    ORDER BY c.id
    """
)

#: Counts no further than asked, so that a campaign of 200,000 costs no more than one of 2,000.
_DUE_COUNTS = text(
    f"""
    SELECT c.id, (
        SELECT count(*) FROM (
            SELECT FROM delivery d WHERE d.campaign_id = c.id AND d.channel = :channel
              AND d.state = '{Delivery.PENDING}' AND d.due_at <= now()
            LIMIT :most
        ) few
    ) AS due
    FROM unnest(CAST(:campaigns AS bigint[])) AS c (id)
    """
)


def due_campaigns(connection: Connection, channel: Channel) -> dict[int, int]:
    """Campaigns with something due on a channel that is not on hold, and their epochs."""
    return {row.id: row.epoch for row in connection.execute(_DUE, {"channel": channel})}


def due_counts(connection: Connection, channel: Channel, campaigns: Sequence[int], most: int) -> dict[int, int]:
    """How many deliveries are due for each campaign, counted up to `most`."""
    rows = connection.execute(_DUE_COUNTS, {"channel": channel, "campaigns": list(campaigns), "most": most})
    return {row.id: row.due for row in rows}


def live_workers(connection: Connection, within_s: float) -> int:
    """Worker processes heard of within so many seconds."""
    count: int = connection.execute(
        text(
            "SELECT count(*) FROM heartbeat "
            "WHERE process LIKE 'worker:%' AND at > now() - make_interval(secs => :within_s)"
        ),
        {"within_s": within_s},
    ).scalar_one()
    return count


BEAT = text("INSERT INTO heartbeat (process) VALUES (:process) ON CONFLICT (process) DO UPDATE SET at = now()")


async def beat(connection: AsyncConnection, process: str) -> None:
    """Says that a process of the engine is at work."""
    await connection.execute(BEAT, {"process": process})


async def hold_provider(
    connection: AsyncConnection, provider: str, *, reason: str, until: datetime, by: str
) -> None:
    """Stops a provider for everybody until then; a longer hold, or one set by a person, stays."""
    await connection.execute(_HOLD, {"scope": f"provider:{provider}", "reason": reason, "until": until, "by": by})


async def pause_unfit(connection: AsyncConnection, campaign_id: int, reason: str) -> None:
    """Pauses a campaign that must not go on as it is; a person has to look at it."""
    await connection.execute(
        text(
            "UPDATE campaign SET state = :target, epoch = epoch + 1, reason = :reason "
            "WHERE id = :campaign_id AND state = ANY(:sources)"
        ),
        {
            "campaign_id": campaign_id,
            "target": Campaign.PAUSED,
            "reason": reason,
            "sources": sources(Campaign.PAUSED),
        },
    )


class Controls(NamedTuple):
    """What may be sent now: campaigns that send, with their epoch, and the scopes on hold."""

    epochs: dict[int, int]
    holds: frozenset[str]

    def allow(self, campaign_id: int, epoch: int, channel: str, provider: str) -> bool:
        """Whether a call for this campaign may start."""
        stopped = {"everything", f"channel:{channel}", f"provider:{provider}"} & self.holds
        return not stopped and self.epochs.get(campaign_id) == epoch


async def controls(connection: AsyncConnection, campaigns: Sequence[int]) -> Controls:
    """Reads what may be sent now, for the campaigns given, in one statement."""
    rows = (await connection.execute(_CONTROLS, {"campaigns": list(campaigns)})).all()
    return Controls(
        {int(row.scope): row.epoch for row in rows if row.kind == "campaign" and row.reason == Campaign.SENDING},
        frozenset(row.scope for row in rows if row.kind == "hold"),
    )


# --- counting ------------------------------------------------------------------------------------------


def outcome_counts(session: Session, campaign_id: int) -> dict[str, int]:
    """How the patients of a campaign stand; `imported` is always the sum of the other five."""
    counts = session.execute(
        text(
            """
            SELECT outcome, count(*) AS people, sum(merged) AS merged
            FROM patient WHERE campaign_id = :campaign_id GROUP BY outcome
            """
        ),
        {"campaign_id": campaign_id},
    ).all()
    people = {row.outcome: row.people for row in counts}
    merged = sum(row.merged for row in counts)
    answer = {"merged": int(merged)} | {str(outcome): people.get(outcome, 0) for outcome in Outcome}
    return {"imported": sum(answer.values())} | answer


def delivery_counts(session: Session, campaign_id: int) -> dict[str, dict[str, int]]:
    """Deliveries of a campaign by channel and state, every state named, also those with none."""
    rows = session.execute(
        text(
            "SELECT channel, state, count(*) AS n FROM delivery "
            "WHERE campaign_id = :campaign_id GROUP BY channel, state"
        ),
        {"campaign_id": campaign_id},
    )
    counts = {str(channel): {str(state): 0 for state in Delivery} for channel in Channel}
    for row in rows:
        counts[row.channel][row.state] = row.n
    return counts


def moved(session: Session, campaign_id: int, target: Campaign, **values: Any) -> bool:
    """Moves a campaign to `target` if its state allows it, in one conditional statement."""
    columns = "".join(f", {name} = :{name}" for name in values)
    answer = session.execute(
        text(
            f"UPDATE campaign SET state = :target{columns} "
            "WHERE id = :campaign_id AND state = ANY(:sources) RETURNING id"
        ),
        {"campaign_id": campaign_id, "target": target, "sources": sources(target), **values},
    )
    return answer.first() is not None
