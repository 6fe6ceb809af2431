"""Whether the process lives, whether it can work, and what the engine is doing, in numbers without people."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from pydantic import BaseModel
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from notifier import startup
from notifier.api.auth import Held
from notifier.api.problems import answer, documented
from notifier.errors import SealingError, ServiceError
from notifier.states import Campaign, Channel
from notifier.store import Database

router = APIRouter(tags=["Health"])

#: several scrapers cost no more than one
_FRESH_S = 5.0
#: counting stops here, so that a scrape costs the same with 15 million due
MOST = 200_000


class Health(BaseModel):
    """That it works."""

    status: str


@router.get("/healthz", summary="Is the process alive?", response_model=Health)
async def health() -> Health:
    """Says nothing of the database."""
    return Health(status="ok")


@router.get("/readyz", summary="Can it work?", response_model=Health, responses=documented(503))
def ready(held: Held) -> Response | Health:
    """503 with the reason if the database is away, too old or not migrated."""
    try:
        held.database.check()
        # With a wrong key genuine receipts would be refused.
        startup.check_master_key(held.database, held.settings.master)
    except SealingError as error:
        return answer(503, detail=error.message)
    except ServiceError as error:
        # The driver's words name hosts; those stand in the log of who started the program.
        return answer(503, detail="PostgreSQL does not answer." if error.__cause__ else error.message)
    except SQLAlchemyError:
        return answer(503, detail="PostgreSQL cannot be used as it is.")
    return Health(status="ready")


@router.get(
    "/metrics",
    summary="Numbers for Prometheus",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **documented(503)},
)
def metrics(request: Request) -> Response:
    """Read from the database, at most every few seconds. No label is about a person."""
    numbers: Metrics = request.app.state.metrics
    return Response(numbers.text(), media_type=CONTENT_TYPE_LATEST)


class Metrics:
    """The text of `/metrics`, computed anew when it is older than some seconds."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._text = b""
        self._until = float("-inf")

    def text(self) -> bytes:
        with self._lock:
            if time.monotonic() >= self._until:
                with self._database.staff() as session:
                    families = list(measure(session))
                registry = CollectorRegistry(auto_describe=False)
                registry.register(_Measured(families))
                self._text = generate_latest(registry)
                self._until = time.monotonic() + _FRESH_S
            return self._text


class _Measured(Collector):
    def __init__(self, families: list[GaugeMetricFamily]) -> None:
        self._families = families

    def collect(self) -> Iterable[GaugeMetricFamily]:
        return self._families


#: States stand literally where a partial index is meant: ix_delivery_due, ix_delivery_leased.
_DUE = text(
    """
    SELECT count(*) FROM (
        SELECT FROM campaign c JOIN delivery d ON d.campaign_id = c.id
        WHERE c.state = 'sending' AND d.state = 'pending' AND d.channel = :channel AND d.due_at <= now()
        LIMIT :most
    ) few
    """
)
_OLDEST = text(
    """
    SELECT coalesce(extract(epoch FROM now() - min(oldest.due_at)), 0)::float8 FROM campaign c
    CROSS JOIN LATERAL (
        SELECT d.due_at FROM delivery d
        WHERE d.campaign_id = c.id AND d.channel = :channel AND d.state = 'pending' AND d.due_at <= now()
        ORDER BY d.due_at LIMIT 1
    ) oldest
    WHERE c.state = 'sending'
    """
)
_EXPIRED = text("SELECT count(*) FROM delivery WHERE state IN ('leased', 'sending') AND lease_until < now()")
_SETTLING = text(
    "SELECT channel, state, count(*) AS n FROM delivery "
    "WHERE state IN ('unknown', 'quarantined') GROUP BY channel, state"
)
_CAMPAIGNS = text("SELECT state, count(*) AS n FROM campaign GROUP BY state")
_UNAPPLIED = text("SELECT count(*) FROM (SELECT FROM receipt WHERE applied_at IS NULL LIMIT :most) few")
#: workers by their youngest sign of life: their names change with every start
_HEARTBEATS = text(
    """
    SELECT split_part(process, ':', 1) AS role, extract(epoch FROM now() - max(at))::float8 AS age
    FROM heartbeat GROUP BY role
    """
)


def measure(session: Session) -> Iterable[GaugeMetricFamily]:
    """Every gauge, by queries that cost the same whatever the backlog."""
    due = GaugeMetricFamily("notifier_deliveries_due", f"Due now, counted up to {MOST}.", labels=["channel"])
    age = GaugeMetricFamily(
        "notifier_deliveries_oldest_due_seconds", "How long the oldest waits.", labels=["channel"]
    )
    for channel in Channel:
        due.add_metric([channel], session.scalar(_DUE, {"channel": channel, "most": MOST}) or 0)
        age.add_metric([channel], session.scalar(_OLDEST, {"channel": channel}) or 0)
    yield due
    yield age
    yield GaugeMetricFamily(
        "notifier_leases_expired", "Claims whose worker is gone.", value=session.scalar(_EXPIRED) or 0
    )
    settling = {(row.channel, row.state): row.n for row in session.execute(_SETTLING)}
    for state, meaning in (("unknown", "May have been sent."), ("quarantined", "Wait for a person.")):
        family = GaugeMetricFamily(f"notifier_deliveries_{state}", meaning, labels=["channel"])
        for channel in Channel:
            family.add_metric([channel], settling.get((channel, state), 0))
        yield family
    campaigns = {row.state: row.n for row in session.execute(_CAMPAIGNS)}
    family = GaugeMetricFamily("notifier_campaigns", "Campaigns by state.", labels=["state"])
    for one in Campaign:
        family.add_metric([one], campaigns.get(one, 0))
    yield family
    beats = GaugeMetricFamily(
        "notifier_heartbeat_age_seconds", "Since a process was last at work.", labels=["role"]
    )
    for row in session.execute(_HEARTBEATS):
        beats.add_metric([row.role], row.age)
    yield beats
    yield GaugeMetricFamily(
        "notifier_receipts_unapplied",
        f"Stored but not yet applied, counted up to {MOST}.",
        value=session.scalar(_UNAPPLIED, {"most": MOST}) or 0,
    )
