"""The database: engine, transactions under a role, migrations, and every statement that claims, writes in
bulk or counts.

A transaction is opened for one of two roles (see the first migration): `doctor(id)` sees that doctor's
rows only, enforced by PostgreSQL; `staff()` sees all. The login role itself is never used for work.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime, timedelta
from enum import IntEnum, unique
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import psycopg
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Engine,
    Row,
    Select,
    create_engine,
    func,
    literal,
    or_,
    select,
    text,
    union,
    union_all,
)
from sqlalchemy.exc import DBAPIError, OperationalError, ProgrammingError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.orm import InstrumentedAttribute, Session

from notifier import models
from notifier.errors import ServiceError
from notifier.models import Journal, Patient, PatientTally
from notifier.reaching import WITHDRAWN, has_told, is_wanted
from notifier.sealing import MARK_BYTES
from notifier.states import Campaign, Channel, Delivery, Outcome, sources

if TYPE_CHECKING:
    from alembic.config import Config

#: see `AsyncDatabase.hot`
Hot = psycopg.AsyncConnection[tuple[Any, ...]]

OLDEST_POSTGRESQL = 15
_UTC = "-c timezone=UTC"
#: a process that froze in a transaction must not keep its locks; a slow download may pause for less
_LET_GO = "-c idle_in_transaction_session_timeout=300s"


@unique
class Lock(IntEnum):
    """PostgreSQL's advisory locks that we take: all here, so that no two are one."""

    #: one migration at a time, whoever starts it
    MIGRATION = 7300
    #: as the journal's own trigger takes it
    JOURNAL = 7301
    #: results handed on, further lists and replays move the same deliveries, patients and campaigns, each in its
    #: own order: one at a time
    SETTLING = 7302
    #: held by the feeder that leads, for as long as it leads
    FEEDER = 7303
    #: with a campaign: one import of it at a time, without a lock on the campaign that would hold up a pause
    IMPORT = 7304
    #: while two master keys are in use, no index can see that two accounts have one address
    ACCOUNTS = 7305


def take(connection: Session | Connection, lock: Lock) -> None:
    """Waits for a lock and holds it until the end of the transaction."""
    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": lock})


class Database:
    """Connections to one database. Cheap to make; connects when first used."""

    def __init__(self, url: str, *, pool_size: int = 10) -> None:
        self.url = url
        # UTC, whatever the server's own zone: texts of instants must mean the same everywhere.
        self.engine: Engine = create_engine(
            url,
            pool_size=pool_size,
            max_overflow=10,
            pool_pre_ping=True,
            connect_args={"options": f"{_UTC} {_LET_GO}"},
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

    @contextmanager
    def snapshot(self, doctor_id: int | None) -> Iterator[Session]:
        """As `scope`, for reading: every statement sees the database as it was at the first."""
        engine = self.engine.execution_options(isolation_level="REPEATABLE READ")
        with Session(engine, expire_on_commit=False) as session, session.begin():
            role = "notifier_staff" if doctor_id is None else "notifier_doctor"
            session.execute(
                text("SELECT set_config('role', :role, true), set_config('notifier.doctor_id', :doctor_id, true)"),
                {"role": role, "doctor_id": str(doctor_id or "")},
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

    def __init__(self, url: str, *, pool_size: int = 10) -> None:
        # Each connection starts as notifier_staff; an error at connect must not leave it with more rights.
        self.engine: AsyncEngine = create_async_engine(
            url,
            pool_size=pool_size,
            # One beyond the pool would be opened and closed for each statement: waiting is cheaper.
            max_overflow=0,
            pool_timeout=10,
            connect_args={
                # Each statement of a worker goes by keys. Tables that grow from nothing to millions within an hour
                # would have the planner read them whole, by what it knew of them when they were small.
                "options": f"-c role=notifier_staff {_UTC} {_LET_GO} -c jit=off -c enable_seqscan=off "
                "-c enable_hashjoin=off -c enable_mergejoin=off",
                "connect_timeout": 5,
                "prepare_threshold": 2,
            },
        )

    @asynccontextmanager
    async def hot(self) -> AsyncIterator[Hot]:
        """The driver's own connection, each statement a transaction of its own: one round trip, no detours."""
        async with self.engine.connect() as connection:
            await connection.execution_options(isolation_level="AUTOCOMMIT")
            raw: Hot = (await connection.get_raw_connection()).driver_connection  # type: ignore[assignment]  # Any
            try:
                yield raw
            except psycopg.OperationalError:
                await connection.invalidate()  # nobody else must get it from the pool
                raise

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
            take(connection, Lock.MIGRATION)
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


def journal_first(session: Session) -> None:
    """Takes the journal's turn before rows are locked: who records first and then needs such a row can wait."""
    take(session, Lock.JOURNAL)


#: what a master key seals: by kind, the table and its columns
SEALED: dict[str, tuple[Any, tuple[str, ...]]] = {
    "campaigns": (models.Campaign, ("data_key",)),
    "accounts": (models.Account, ("email_sealed", "totp_sealed")),
    "sessions": (models.WebSession, ("totp_sealed",)),
    "callbacks": (models.Callback, ("secret_sealed",)),
}


def sealed_by(session: Session) -> dict[str, dict[str, int]]:
    """How much each master key has sealed: rows by kind, then by the key's fingerprint."""
    marks = union(
        *(
            select(literal(kind).label("kind"), table.id, func.substr(column, 1, MARK_BYTES).label("mark")).where(
                column.is_not(None)
            )
            for kind, (table, names) in SEALED.items()
            for column in (getattr(table, name) for name in names)
        )
    ).subquery()
    counted = select(marks.c.kind, marks.c.mark, func.count()).group_by(marks.c.kind, marks.c.mark)
    found: dict[str, dict[str, int]] = {kind: {} for kind in SEALED}
    for kind, mark, n in session.execute(counted.order_by(marks.c.kind, marks.c.mark)):
        found[kind][mark.hex()] = n
    return found


def settle_alone(session: Session, *, wait: bool = True) -> bool:
    """Takes the turn of whoever settles, until the end of the transaction; False if it is taken and none waits."""
    if wait:
        take(session, Lock.SETTLING)
        return True
    return bool(session.scalar(text("SELECT pg_try_advisory_xact_lock(:key)"), {"key": Lock.SETTLING}))


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
        WHERE scope IN ('everything', 'channel:' || %(channel)s, 'provider:' || %(provider)s)
          AND (until IS NULL OR until > now())
    )
"""


#: Takes hints first come, first served, until there are rows enough; the rest of the last hint stays. A hint to be
#: claimed alone comes with nothing else. What it names is looked up now: a row that is no longer due is left out.
#: A lease says who has the rows and until when; they stay `pending` until the intent. What came back from a worker
#: may be for nobody any more, because a list has changed meanwhile: it is withdrawn here, before it could be sent.
_CLAIM = f"""
    WITH seen AS (
        SELECT id, ids, together, at FROM due
        WHERE kind = 'send' AND campaign_id = %(campaign_id)s AND channel = %(channel)s AND at <= now()
          AND EXISTS (
            SELECT FROM campaign c
            WHERE c.id = %(campaign_id)s AND c.state = '{Campaign.SENDING}' AND c.epoch = %(epoch)s
          ) AND {_FREE} AND (together OR %(suspects)s)
        ORDER BY together, at LIMIT %(hints)s FOR UPDATE SKIP LOCKED
    ), counted AS (
        SELECT id, ids, row_number() OVER w AS place, bool_and(together) OVER w AS together,
               sum(cardinality(ids)) OVER w - cardinality(ids) AS before
        FROM seen WINDOW w AS (ORDER BY together, at, id ROWS UNBOUNDED PRECEDING)
    ), taken AS (
        SELECT id, together, ids[:%(rows)s - before] AS ids, ids[%(rows)s - before + 1:] AS rest
        FROM counted WHERE before < %(rows)s AND (place = 1 OR together)
    ), gone AS (
        DELETE FROM due USING taken WHERE due.id = taken.id AND cardinality(taken.rest) = 0
    ), kept AS (
        UPDATE due SET ids = taken.rest FROM taken WHERE due.id = taken.id AND cardinality(taken.rest) > 0
    ), found AS MATERIALIZED (
        SELECT d.id, d.fence, d.language, d.variant, d.tries, d.first_tried_at, d.contact_id, d.addressee_id,
               d.fence = 0 OR {is_wanted("d")} AS wanted
        -- once, although two hints may name it
        FROM (SELECT DISTINCT unnest(ids) AS id FROM taken) named JOIN delivery d ON d.id = named.id
        WHERE d.state = '{Delivery.PENDING}' AND d.due_at <= now()
    ), withdrawn AS (
        UPDATE delivery d SET state = '{Delivery.CANCELLED}', due_at = now(), reason = '{WITHDRAWN}'
        FROM found WHERE NOT found.wanted AND d.id = found.id AND d.state = '{Delivery.PENDING}'
    ), mine AS MATERIALIZED (
        SELECT * FROM found WHERE wanted
    ), lease AS (
        INSERT INTO due (campaign_id, channel, kind, at, ids, fences, owner)
        SELECT %(campaign_id)s, %(channel)s, 'lease', now() + make_interval(secs => %(lease_s)s),
               array_agg(id), array_agg(fence), %(owner)s
        FROM mine HAVING count(*) > 0
        RETURNING id
    )
    SELECT (SELECT id FROM lease), (SELECT count(*) FROM taken), (SELECT bool_and(together) FROM taken),
           m.id, m.fence, m.language, m.variant, m.tries, m.first_tried_at,
           contact.value_sealed, patient.identity_sealed
    FROM mine m JOIN contact ON contact.id = m.contact_id LEFT JOIN patient ON patient.id = m.addressee_id
"""

#: Nothing is marked once the lease was swept away or the campaign, its channel or provider was stopped.
_INTEND = f"""
    WITH lease AS (
        UPDATE due SET at = now() + make_interval(secs => %(lease_s)s)
        WHERE id = %(lease)s AND kind = 'lease' AND EXISTS (
            SELECT FROM campaign c
            WHERE c.id = due.campaign_id AND c.state = '{Campaign.SENDING}' AND c.epoch = %(epoch)s
        ) AND {_FREE}
        RETURNING id
    ), wanted AS (
        SELECT * FROM unnest(
            %(ids)s::bigint[], %(fences)s::int[], %(notices)s::bigint[]
        ) AS w (id, fence, notice_id)
        WHERE EXISTS (SELECT FROM lease)
    ), moved AS (
        UPDATE delivery d
        SET state = '{Delivery.SENDING}', fence = d.fence + 1, tries = d.tries + 1,
            first_tried_at = coalesce(d.first_tried_at, now())
        FROM wanted w WHERE d.id = w.id AND d.fence = w.fence AND d.state = '{Delivery.PENDING}'
        RETURNING d.id, d.fence, d.doctor_id, w.notice_id
    )
    INSERT INTO attempt (delivery_id, doctor_id, fence, provider, notice_id)
    SELECT id, doctor_id, fence, %(provider)s, notice_id FROM moved
    RETURNING delivery_id
"""

#: A result may find the row already marked unknown by the sweeper: knowledge beats ignorance, and the
#: fence proves that nobody claimed the row in between. A receipt that came first has moved the row on:
#: then only the attempt is closed.
_CLOSE = f"""
    WITH result AS (
        SELECT * FROM unnest(
            %(ids)s::bigint[], %(fences)s::int[], %(states)s::text[], %(due)s::timestamptz[], %(uncounted)s::int[],
            %(outcomes)s::text[], %(codes)s::text[], %(message_ids)s::text[], %(raws)s::text[]
        ) AS r (id, fence, state, due_at, uncounted, outcome, code, message_id, raw)
    ), closed AS (
        UPDATE attempt a
        SET ended_at = now(), outcome = r.outcome, code = r.code,
            provider_message_id = r.message_id, raw_sealed = decode(r.raw, 'hex')
        FROM result r
        WHERE a.delivery_id = r.id AND a.fence = r.fence
          AND (a.ended_at IS NULL OR a.outcome = 'unknown')
    )
    UPDATE delivery d
    SET state = r.state, due_at = r.due_at, tries = greatest(d.tries - r.uncounted, 0),
        -- a worker that reports after its lease was slow, not dead
        crashes = CASE WHEN d.state = '{Delivery.UNKNOWN}' THEN greatest(d.crashes - 1, 0) ELSE d.crashes END,
        reason = r.code
    FROM result r
    WHERE d.id = r.id AND d.fence = r.fence AND d.state IN ('{Delivery.SENDING}', '{Delivery.UNKNOWN}')
"""

#: The fence grows, so that the lease no longer speaks of these rows.
_RELEASE = f"""
    UPDATE delivery d SET fence = d.fence + 1, due_at = coalesce(w.due_at, d.due_at)
    FROM unnest(%(ids)s::bigint[], %(fences)s::int[], %(due)s::timestamptz[]) AS w (id, fence, due_at)
    WHERE d.id = w.id AND d.fence = w.fence AND d.state = '{Delivery.PENDING}'
"""

_QUARANTINE = f"""
    UPDATE delivery d
    SET state = '{Delivery.QUARANTINED}', fence = d.fence + 1, due_at = now(), reason = %(reason)s
    FROM unnest(%(ids)s::bigint[], %(fences)s::int[]) AS w (id, fence)
    WHERE d.id = w.id AND d.fence = w.fence AND d.state = '{Delivery.PENDING}'
"""

_END_LEASE = "DELETE FROM due WHERE id = %(lease)s AND kind = 'lease'"

#: What vanished workers held. A row still `pending` under the fence of its claim was never handed over: it is
#: due again; the count of crashes tells a row that kills its worker from one that was only nearby. A row `sending`
#: under the next fence may have been sent: it waits for a receipt or the quiet time.
_EXPIRED = text(
    f"""
    WITH expired AS (
        DELETE FROM due WHERE id IN (
            SELECT id FROM due WHERE kind = 'lease' AND at < now() ORDER BY at LIMIT :leases FOR UPDATE SKIP LOCKED
        ) RETURNING ids, fences
    ), held AS (
        SELECT h.id, h.fence FROM expired CROSS JOIN unnest(expired.ids, expired.fences) AS h (id, fence)
    ), waiting AS (
        UPDATE delivery d
        SET state = CASE WHEN d.crashes + 1 >= :max_crashes THEN '{Delivery.QUARANTINED}'
                         ELSE '{Delivery.PENDING}' END,
            crashes = d.crashes + 1, fence = d.fence + 1,
            due_at = CASE WHEN d.crashes + 1 >= :max_crashes THEN now() ELSE d.due_at END,
            reason = CASE WHEN d.crashes + 1 >= :max_crashes THEN 'worker_crashed' ELSE d.reason END
        FROM held h WHERE d.id = h.id AND d.fence = h.fence AND d.state = '{Delivery.PENDING}'
        RETURNING d.id
    ), uncertain AS (
        UPDATE delivery d
        SET state = '{Delivery.UNKNOWN}', crashes = d.crashes + 1, reason = 'worker_gone',
            due_at = now() + make_interval(secs => (CAST(:quiet_s AS jsonb)->>d.channel)::float8)
        FROM held h WHERE d.id = h.id AND d.fence = h.fence + 1 AND d.state = '{Delivery.SENDING}'
        RETURNING d.id
    ), closed AS (
        -- also where a receipt has moved the row on
        UPDATE attempt a SET ended_at = now(), outcome = 'unknown', code = 'worker_gone'
        FROM held h WHERE a.delivery_id = h.id AND a.fence = h.fence + 1 AND a.ended_at IS NULL
    )
    SELECT (SELECT count(*) FROM waiting) + (SELECT count(*) FROM uncertain)
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

_PACE = text(
    """
    INSERT INTO pace (at, process, provider, receiver, outcome, code, n)
    SELECT date_bin('10 seconds', now(), 'epoch'), :process, :provider, receiver, outcome, code, n
    FROM unnest(CAST(:receivers AS text[]), CAST(:outcomes AS text[]), CAST(:codes AS text[]), CAST(:ns AS int[]))
        AS e (receiver, outcome, code, n)
    ON CONFLICT (at, process, provider, receiver, outcome, code) DO UPDATE SET n = pace.n + excluded.n
    """
)

_CONTROLS = text(
    """
    SELECT 'campaign' AS kind, id::text AS scope, state AS reason, epoch FROM campaign WHERE id = ANY(:campaigns)
    UNION ALL
    SELECT 'hold', scope, reason, 0 FROM hold WHERE until IS NULL OR until > now()
    UNION ALL
    SELECT 'clock', '', extract(epoch FROM clock_timestamp())::text, 0
    """
)


class Claimed(NamedTuple):
    """One row under our lease, with what is needed to write to the person, still sealed."""

    id: int
    fence: int
    language: str
    variant: str
    tries: int
    first_tried_at: datetime | None
    value_sealed: bytes
    identity_sealed: bytes | None


class Claim(NamedTuple):
    """What one claim took: the lease, how many hints it came from, and the rows."""

    lease: int
    hints: int
    #: False if the rows were in the hands of a worker that died
    together: bool
    rows: list[Claimed]


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
    connection: Hot,
    *,
    campaign_id: int,
    epoch: int,
    channel: Channel,
    provider: str,
    owner: str,
    lease: timedelta,
    rows: int,
    hints: int,
    suspects: bool = True,
) -> Claim | None:
    """Takes up to `rows` due deliveries, named by up to `hints` hints, under a lease; None if nothing was free.

    A row that was near a crash comes in ever smaller company, so that the one that kills is found and its
    neighbours are not blamed; without `suspects` it is left to others.
    """
    answer = await connection.execute(
        _CLAIM,
        {
            "campaign_id": campaign_id,
            "epoch": epoch,
            "channel": str(channel),
            "provider": provider,
            "owner": owner,
            "lease_s": lease.total_seconds(),
            "rows": rows,
            "hints": hints,
            "suspects": suspects,
        },
        binary=True,
    )
    found = await answer.fetchall()
    if not found:
        return None
    lease_id, taken, together = found[0][:3]
    return Claim(lease_id, taken, together, [Claimed(*row[3:]) for row in found])


async def intend(
    connection: Hot,
    rows: Sequence[tuple[int, int, int]],
    *,
    lease_id: int,
    epoch: int,
    channel: Channel,
    provider: str,
    lease: timedelta,
) -> set[int]:
    """Marks (id, fence, notice id) as `sending` and opens their attempts; returns the ids that may go out.

    Their fence has grown by one. A row is left out if the campaign, its channel, provider or everything was
    stopped meanwhile, or if the lease was lost.
    """
    answer = await connection.execute(
        _INTEND,
        {
            "lease": lease_id,
            "ids": _array(row[0] for row in rows),
            "fences": _array(row[1] for row in rows),
            "notices": _array(row[2] for row in rows),
            "epoch": epoch,
            "channel": str(channel),
            "provider": provider,
            "lease_s": lease.total_seconds(),
        },
        binary=True,
    )
    return {row[0] for row in await answer.fetchall()}


async def close(connection: Hot, results: Sequence[Result]) -> int:
    """Writes how attempts ended; returns how many rows moved (fewer when a receipt was faster)."""
    ids, fences, states, due, uncounted, outcomes, codes, message_ids, raws = zip(*results, strict=True)
    answer = await connection.execute(
        _CLOSE,
        {
            "ids": _array(ids),
            "fences": _array(fences),
            "states": _array(states),
            "due": _array("NULL" if at is None else at.isoformat() for at in due),
            "uncounted": _array(uncounted),
            "outcomes": _array(outcomes),
            "codes": _texts(codes),
            "message_ids": _texts(message_ids),
            "raws": _array("NULL" if raw is None else raw.hex() for raw in raws),
        },
    )
    return answer.rowcount


async def release(connection: Hot, rows: Sequence[tuple[int, int, datetime | None]]) -> None:
    """Gives back claimed rows (id, fence, when due again; None: at once) that were not handed over."""
    await connection.execute(
        _RELEASE,
        {
            "ids": _array(row[0] for row in rows),
            "fences": _array(row[1] for row in rows),
            "due": _array("NULL" if row[2] is None else row[2].isoformat() for row in rows),
        },
    )


async def quarantine(connection: Hot, rows: Sequence[tuple[int, int]], reason: str) -> None:
    """Sets claimed rows (id, fence) aside for a person: they cannot be rendered."""
    await connection.execute(
        _QUARANTINE,
        {"ids": _array(row[0] for row in rows), "fences": _array(row[1] for row in rows), "reason": reason},
    )


async def end_lease(connection: Hot, lease_id: int) -> None:
    """Forgets a lease whose rows were all handed over or given back."""
    await connection.execute(_END_LEASE, {"lease": lease_id})


def _array(plain: Iterable[int | str]) -> str:
    """PostgreSQL's text form of an array of numbers or of our own words; the driver's takes ten times as long."""
    return "{" + ",".join(map(str, plain)) + "}"


def _texts(values: Iterable[str | None]) -> str:
    """The same for any text, and None."""
    return (
        "{"
        + ",".join(
            "NULL" if value is None else '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
            for value in values
        )
        + "}"
    )


def sweep(session: Session, *, quiet: Mapping[Channel, timedelta], max_crashes: int, leases: int) -> int:
    """Gives back what vanished workers held; returns how many rows moved. Small batches, safe to repeat."""
    seconds = {str(channel): wait.total_seconds() for channel, wait in quiet.items()}
    moved: int = session.execute(
        _EXPIRED, {"leases": leases, "max_crashes": max_crashes, "quiet_s": json.dumps(seconds)}
    ).scalar_one()
    session.execute(text("DELETE FROM hold WHERE until < now() - interval '1 minute'"))
    session.execute(text("DELETE FROM heartbeat WHERE at < now() - interval '1 day'"))
    session.execute(text("DELETE FROM pace WHERE at < now() - interval '1 day'"))
    session.execute(
        text(
            "DELETE FROM change WHERE at < now() - interval '30 days' "
            "AND id IN (SELECT id FROM change ORDER BY xid, id LIMIT 1000)"
        )
    )
    return moved


#: What was appended since becomes one row again, and zeros vanish: (table, what is counted, the counts).
_FOLDS = [
    text(
        f"""
        WITH old AS (
            DELETE FROM {table}
            WHERE id IN (SELECT id FROM {table} ORDER BY id LIMIT :limit FOR UPDATE SKIP LOCKED)
            RETURNING {kinds}, {", ".join(counts)}
        )
        INSERT INTO {table} ({kinds}, {", ".join(counts)})
        SELECT {kinds}, {", ".join(f"sum({one})" for one in counts)} FROM old GROUP BY {kinds}
        HAVING {" OR ".join(f"sum({one}) <> 0" for one in counts)}
        """
    )
    for table, kinds, counts in (
        ("tally", "campaign_id, channel, state", ("n",)),
        ("patient_tally", "campaign_id, language, variant, has_postal, outcome, reason", ("n", "merged")),
    )
]

#: Deliveries of one campaign that want something, but that no hint names.
_UNHINTED = text(
    f"""
    SELECT id FROM delivery
    WHERE campaign_id = :campaign_id AND due_at IS NOT NULL AND state <> '{Delivery.SENDING}'
    EXCEPT
    SELECT unnest(ids) FROM due WHERE campaign_id = :campaign_id
    """
)


#: Deliveries of one campaign that are `sending`, but in nobody's lease.
_ORPHANS = text(
    f"""
    WITH orphan AS (
        UPDATE delivery d SET state = '{Delivery.UNKNOWN}', reason = 'worker_gone',
            due_at = now() + make_interval(secs => (CAST(:quiet_s AS jsonb)->>d.channel)::float8)
        FROM attempt a
        WHERE d.campaign_id = :campaign_id AND d.state = '{Delivery.SENDING}'
          AND a.delivery_id = d.id AND a.fence = d.fence AND a.started_at < now() - make_interval(secs => :older_s)
          AND d.id NOT IN (SELECT unnest(ids) FROM due WHERE campaign_id = :campaign_id AND kind = 'lease')
        RETURNING d.id, d.fence
    ), closed AS (
        UPDATE attempt a SET ended_at = now(), outcome = 'unknown', code = 'worker_gone'
        FROM orphan o WHERE a.delivery_id = o.id AND a.fence = o.fence AND a.ended_at IS NULL
    )
    SELECT count(*) FROM orphan
    """
)


def fold_tally(session: Session, limit: int = 20_000) -> None:
    """Keeps `tally` and `patient_tally` small; sums stay what they are."""
    for fold in _FOLDS:
        session.execute(fold, {"limit": limit})


def adopt(session: Session, campaign_id: int, *, quiet: Mapping[Channel, timedelta], older: timedelta) -> int:
    """Marks as unknown what has been `sending` for longer than a lease and is in none; returns how many.

    There should be none, as with `rehint`.
    """
    seconds = {str(channel): wait.total_seconds() for channel, wait in quiet.items()}
    values = {"campaign_id": campaign_id, "older_s": older.total_seconds(), "quiet_s": json.dumps(seconds)}
    found: int = session.execute(_ORPHANS, values).scalar_one()
    return found


def rehint(session: Session, campaign_id: int) -> int:
    """Makes hints for deliveries that want something and have none; returns how many there were.

    There should be none: hints are made with every change. This is the net beneath, for a day when one is lost.
    """
    missing = list(session.scalars(_UNHINTED, {"campaign_id": campaign_id}))
    if missing:
        session.execute(text("UPDATE delivery SET due_at = due_at WHERE id = ANY(:ids)"), {"ids": missing})
    return len(missing)


_DUE = text(
    f"""
    SELECT c.id, c.epoch FROM campaign c
    WHERE c.state = '{Campaign.SENDING}'
      AND EXISTS (
        SELECT FROM due
        WHERE kind = 'send' AND due.campaign_id = c.id AND due.channel = :channel
          AND due.together IN (true, false) AND due.at <= now()
      )
      AND NOT EXISTS (
        SELECT FROM hold WHERE scope IN ('everything', 'channel:' || :channel, 'campaign:' || c.id)
          AND (until IS NULL OR until > now())
      )
    ORDER BY c.id
    """
)

#: Counts no further than asked, so that a campaign of 200,000 costs no more than one of 2,000.
_DUE_COUNTS = text(
    """
    SELECT c.id, (
        SELECT coalesce(sum(cardinality(few.ids)), 0) FROM (
            SELECT ids FROM due
            WHERE kind = 'send' AND due.campaign_id = c.id AND due.channel = :channel
          AND due.together IN (true, false) AND due.at <= now()
            LIMIT :hints
        ) few
    ) AS due
    FROM unnest(CAST(:campaigns AS bigint[])) AS c (id)
    """
)


def due_campaigns(connection: Connection, channel: Channel) -> dict[int, int]:
    """Campaigns with something due on a channel that is not on hold, and their epochs."""
    return {row.id: row.epoch for row in connection.execute(_DUE, {"channel": channel})}


def due_counts(connection: Connection, channel: Channel, campaigns: Sequence[int], hints: int) -> dict[int, int]:
    """How many deliveries the first `hints` hints of each campaign name."""
    rows = connection.execute(_DUE_COUNTS, {"channel": channel, "campaigns": list(campaigns), "hints": hints})
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


#: Who looks for due work in intervals looks at once when this is committed: a hint, and nothing but that.
WAKE, LISTEN = text("NOTIFY notifier_due"), text("LISTEN notifier_due")

BEAT = text("INSERT INTO heartbeat (process) VALUES (:process) ON CONFLICT (process) DO UPDATE SET at = now()")
_BEAT_WITH_KEYS = text(
    "INSERT INTO heartbeat (process, keys) VALUES (:process, :keys) "
    "ON CONFLICT (process) DO UPDATE SET at = now(), keys = excluded.keys"
)


async def beat(connection: AsyncConnection, process: str, keys: Sequence[str]) -> None:
    """Says that a process of the engine is at work, and which master keys it was given, by fingerprint."""
    await connection.execute(_BEAT_WITH_KEYS, {"process": process, "keys": " ".join(keys)})


_WITHOUT_KEY = text(
    """
    SELECT key.mark, h.process FROM heartbeat h CROSS JOIN unnest(CAST(:marks AS text[])) AS key (mark)
    WHERE h.at > now() - make_interval(secs => :within_s) AND key.mark <> ALL (string_to_array(h.keys, ' '))
    ORDER BY key.mark, h.process
    """
)


def without_key(session: Session, marks: Sequence[str], within_s: float) -> dict[str, list[str]]:
    """Of these master keys each that a process heard of lately was not given, with such processes."""
    found: dict[str, list[str]] = {}
    for row in session.execute(_WITHOUT_KEY, {"marks": list(marks), "within_s": within_s}):
        found.setdefault(row.mark, []).append(row.process)
    return found


async def hold(connection: AsyncConnection, scope: str, *, reason: str, until: datetime, by: str) -> None:
    """Stops a scope for everybody until then; a longer hold, or one set by a person, stays."""
    await connection.execute(_HOLD, {"scope": scope, "reason": reason, "until": until, "by": by})


async def note_pace(
    connection: AsyncConnection, process: str, provider: str, ended: Mapping[tuple[str, str, str], int]
) -> None:
    """Adds how hand-overs ended, by (receiver, outcome, code), to this slot of ten seconds."""
    await connection.execute(
        _PACE,
        {
            "process": process,
            "provider": provider,
            "receivers": [key[0] for key in ended],
            "outcomes": [str(key[1]) for key in ended],
            "codes": [key[2] for key in ended],
            "ns": list(ended.values()),
        },
    )


async def pause_unfit(connection: AsyncConnection, campaign_id: int, reason: str) -> None:
    """Pauses a campaign that must not go on as it is; a person has to look at it. The journal says so once."""
    await connection.execute(
        text(
            """
            WITH paused AS (
                UPDATE campaign SET state = :target, epoch = epoch + 1, reason = :reason
                WHERE id = :campaign_id AND state = ANY(:sources) RETURNING id, doctor_id
            )
            INSERT INTO journal (actor, action, subject, doctor_id, detail)
            SELECT 'engine', 'campaign.pause', 'campaign:' || id, doctor_id,
                   jsonb_build_object('reason', CAST(:reason AS text))
            FROM paused
            """
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
    #: the database's clock when it answered: seconds since 1970
    at: float

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
        next(float(row.reason) for row in rows if row.kind == "clock"),
    )


#: Told are those to whom a message was delivered, or counts as such by silence.
_DOUBT_INFORMED = text(
    f"""
    UPDATE patient p SET outcome = '{Outcome.ON_THE_WAY}', outcome_reason = NULL, outcome_at = :now
    FROM delivery_patient dp
    WHERE dp.delivery_id = ANY(:ids) AND p.id = dp.patient_id AND p.outcome = '{Outcome.INFORMED}'
      AND p.outcome = ANY(:sources)
      AND NOT EXISTS (
        SELECT FROM delivery_patient dp2 JOIN delivery d2 ON d2.id = dp2.delivery_id
        WHERE dp2.patient_id = p.id AND {has_told("d2")}
      )
      AND NOT EXISTS (SELECT FROM told WHERE told.patient_id = p.id)
    """
)


def doubt_informed(session: Session, deliveries: Sequence[int], *, now: datetime) -> None:
    """People counted as told by these deliveries, which have failed since, are on the way again.

    Unless another message told them. A completed campaign of theirs is reopened by the next settling.
    """
    values = {"ids": list(deliveries), "now": now, "sources": sources(Outcome.ON_THE_WAY)}
    session.execute(_DOUBT_INFORMED, values)


# --- counting ------------------------------------------------------------------------------------------


def outcome_counts(session: Session, campaign_id: int) -> dict[str, int]:
    """How the patients of a campaign stand; `imported` is always the sum of the other five."""
    rows = patient_counts(session, campaign_id, PatientTally.outcome)
    answer = {"merged": sum(row.merged for row in rows)} | {str(outcome): 0 for outcome in Outcome}
    answer |= {row.outcome: row.n for row in rows}
    return {"imported": sum(answer.values())} | answer


def patient_counts(
    session: Session, campaign_id: int, *kinds: InstrumentedAttribute[Any]
) -> Sequence[Row[*tuple[Any, ...]]]:
    """Patients of a campaign by some columns of `PatientTally`: those columns, then `n` and `merged`.

    By what is kept of each change: no patient is counted anew.
    """
    n, merged = (func.sum(one).cast(BigInteger) for one in (PatientTally.n, PatientTally.merged))
    return session.execute(
        select(*kinds, n.label("n"), merged.label("merged"))
        .where(PatientTally.campaign_id == campaign_id)
        .group_by(*kinds)
        .having(or_(n != 0, merged != 0))
        .order_by(*kinds)
    ).all()


def next_patients(
    campaign_id: int,
    after: int,
    limit: int,
    outcomes: Iterable[str] = Outcome,
    *conditions: ColumnElement[bool],
) -> Select[int]:
    """Ids of the next patients of a campaign that stand so and meet the conditions, in order.

    Each outcome by its own range of the index: one more index would cost every result that comes in.
    """
    ranges = (
        select(Patient.id)
        .where(Patient.campaign_id == campaign_id, Patient.outcome == outcome, Patient.id > after, *conditions)
        .order_by(Patient.id)
        .limit(limit)
        .subquery()
        for outcome in outcomes
    )
    found = union_all(*(select(one.c.id) for one in ranges)).subquery()
    return select(found.c.id).order_by(found.c.id).limit(limit)


def delivery_counts(session: Session, campaign_id: int) -> dict[str, dict[str, int]]:
    """Deliveries of a campaign by channel and state, every state named, also those with none."""
    rows = session.execute(
        text(
            "SELECT channel, state, sum(n) AS n FROM tally "
            "WHERE campaign_id = :campaign_id GROUP BY channel, state"
        ),
        {"campaign_id": campaign_id},
    )
    counts = {str(channel): {str(state): 0 for state in Delivery} for channel in Channel}
    for row in rows:
        counts[row.channel][row.state] = int(row.n)
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
    if target is Campaign.SENDING:
        session.execute(WAKE)
    return answer.first() is not None
