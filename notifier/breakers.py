"""Which breakers are not closed: the table's own statements. Who decides stands in `workers/breaker.py`.

A row is a provider or a group of receivers to which no calls go, or fewer than usual; no row is the good case.
Rows change only where they still are as the writer knew them, so that many processes may decide at once.
"""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import Session


class OpenScope(NamedTuple):
    """One breaker that is not closed."""

    #: "provider:smtp", "receiver:orange"
    scope: str
    #: "open": no calls · "probing": one now and then · "healing": a part of the rate
    state: str
    #: probing: good probes so far; healing: steps up so far
    level: int
    #: openings in a row; 0: the other side asked for a pause
    failures: int
    #: when the state ends by itself; None: when probes have come back
    until: datetime | None
    #: seconds until then by the database's clock, less than 0 if it is over
    left_s: float
    #: what a person can understand and mend
    reason: str
    changed_at: datetime


_READ = text(
    """
    SELECT scope, state, level, failures, until,
           coalesce(extract(epoch FROM until - clock_timestamp()), 0)::float8 AS left_s, reason, changed_at
    FROM breaker ORDER BY scope
    """
)
_INSERT = text(
    """
    INSERT INTO breaker (scope, state, level, failures, until, reason, changed_at)
    VALUES (:scope, :state, :level, :failures, clock_timestamp() + make_interval(secs => :left_s), :reason,
            clock_timestamp())
    ON CONFLICT (scope) DO NOTHING
    """
)
_UPDATE = text(
    """
    UPDATE breaker
    SET state = :state, level = :level, failures = :failures, reason = :reason, changed_at = clock_timestamp(),
        until = clock_timestamp() + make_interval(secs => :left_s)
    WHERE scope = :scope AND changed_at = :expected
    """
)
_DELETE = text("DELETE FROM breaker WHERE scope = :scope AND changed_at = :expected")


def open_scopes(session: Session) -> list[OpenScope]:
    """All breakers that are not closed, by scope. An open one whose time is over waits for the next call."""
    return [OpenScope(*row) for row in session.execute(_READ)]


def close_scope(session: Session, scope: str) -> bool:
    """A person says that all is well again: calls start at once. False if it was not open."""
    found = session.execute(text("DELETE FROM breaker WHERE scope = :scope RETURNING scope"), {"scope": scope})
    return found.first() is not None


async def read(connection: AsyncConnection) -> list[OpenScope]:
    """As `open_scopes`, for the engine."""
    return [OpenScope(*row) for row in await connection.execute(_READ)]


async def change(
    connection: AsyncConnection,
    scope: str,
    expected: datetime | None,
    *,
    state: str,
    level: int,
    failures: int,
    left_s: float | None,
    reason: str,
) -> None:
    """Puts a row where there is none (`expected` None), or in the place of the one last changed at `expected`.

    Nothing happens if somebody else was faster.
    """
    values = {"scope": scope, "state": state, "level": level, "failures": failures, "reason": reason}
    if expected is None:
        await connection.execute(_INSERT, values | {"left_s": left_s})
    else:
        await connection.execute(_UPDATE, values | {"left_s": left_s, "expected": expected})


async def remove(connection: AsyncConnection, scope: str, expected: datetime) -> None:
    """Closes a breaker, if it still is as it was at `expected`."""
    await connection.execute(_DELETE, {"scope": scope, "expected": expected})
