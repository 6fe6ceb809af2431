"""A process of ours that asks PostgreSQL for the plan of each statement before it runs it.

`python -m bench.explained worker …` is `python -m workers.main worker …` with that addition, `python -m
bench.explained api` is `python -m notifier.api`. Each plan is really
carried out (`EXPLAIN (ANALYZE, BUFFERS, WAL)`) inside a savepoint and undone; the first few of each statement, as
lines of JSON in the file named by BENCH_PLANS.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from typing import Any

import psycopg

from notifier.api.__main__ import main as serve
from workers.main import main

#: the first uses of a statement may find nothing to do
MOST_OF_EACH = 6
_ASKED = ("SELECT", "WITH", "INSERT", "UPDATE", "DELETE")
_EXPLAIN = "EXPLAIN (ANALYZE, BUFFERS, WAL, TIMING OFF) "

_seen: dict[str, int] = {}
_plain = psycopg.Cursor.execute
_plain_async = psycopg.AsyncCursor.execute


def _is_wanted(query: object) -> bool:
    if not isinstance(query, str) or not query.lstrip().upper().startswith(_ASKED):
        return False
    _seen[query] = _seen.get(query, 0) + 1
    return _seen[query] <= MOST_OF_EACH


def _keep(query: str, rows: list[tuple[Any, ...]]) -> None:
    line = {"role": sys.argv[1], "text": " ".join(query.split()), "plan": [row[0] for row in rows]}
    with open(os.environ["BENCH_PLANS"], "a", encoding="utf-8") as out:
        out.write(json.dumps(line) + "\n")


def _execute(self: Any, query: Any, params: Any = None, **options: Any) -> Any:
    if _is_wanted(query):
        with self.connection.transaction(force_rollback=True), psycopg.Cursor(self.connection) as cursor:
            _plain(cursor, _EXPLAIN + query, params)
            _keep(query, cursor.fetchall())
    return _plain(self, query, params, **options)


async def _execute_async(self: Any, query: Any, params: Any = None, **options: Any) -> Any:
    if _is_wanted(query):
        connection = self.connection
        async with connection.transaction(force_rollback=True), psycopg.AsyncCursor(connection) as cursor:
            await _plain_async(cursor, _EXPLAIN + query, params)
            _keep(query, await cursor.fetchall())
    return await _plain_async(self, query, params, **options)


def busiest(lines: Iterable[str]) -> list[dict[str, Any]]:
    """Of each statement the plan that took longest; the slowest statement first."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for line in lines:
        entry = json.loads(line)
        entry["ms"] = _milliseconds(entry["plan"])
        key = (entry["role"], entry["text"])
        if key not in found or entry["ms"] > found[key]["ms"]:
            found[key] = entry
    return sorted(found.values(), key=lambda entry: -entry["ms"])


def _milliseconds(plan: list[str]) -> float:
    last = next((line for line in plan if line.startswith("Execution Time:")), "")
    return float(last.split()[2]) if last else 0.0


if __name__ == "__main__":
    psycopg.Cursor.execute = _execute  # type: ignore[method-assign]  # the point of this module
    psycopg.AsyncCursor.execute = _execute_async  # type: ignore[method-assign]  # as above
    sys.exit(serve() if sys.argv[1] == "api" else main(sys.argv[1:]))
