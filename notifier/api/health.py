"""Whether the process lives, whether it can work, and what the engine is doing, in numbers without people."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from itertools import product

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from pydantic import BaseModel
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from notifier import standing, startup
from notifier.api.auth import Held
from notifier.api.problems import answer, documented
from notifier.breakers import open_scopes
from notifier.errors import SealingError, ServiceError
from notifier.states import Campaign, Channel, Delivery
from notifier.store import Database

router = APIRouter(tags=["Health"])

#: several scrapers cost no more than one
_FRESH_S = 5.0


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


_CAMPAIGNS = text("SELECT state, count(*) AS n FROM campaign GROUP BY state")


def measure(session: Session) -> Iterable[GaugeMetricFamily]:
    """Every gauge, by queries that cost the same whatever the backlog."""
    due = GaugeMetricFamily(
        "notifier_deliveries_due",
        "Due now (of a very large backlog, its first part).",
        labels=["channel"],
    )
    age = GaugeMetricFamily(
        "notifier_deliveries_oldest_due_seconds", "How long the oldest waits.", labels=["channel"]
    )
    for channel, wait in standing.waiting(session).items():
        due.add_metric([channel], wait.due)
        age.add_metric([channel], wait.oldest_due_s or 0)
    yield due
    yield age
    yield GaugeMetricFamily(
        "notifier_leases_expired", "Claims whose worker is gone.", value=standing.expired_leases(session)
    )
    counts = standing.states(session)
    family = GaugeMetricFamily("notifier_deliveries", "Deliveries by state.", labels=["channel", "state"])
    for channel, state in product(Channel, Delivery):
        family.add_metric([channel, state], counts.get((channel, state), 0))
    yield family
    for state, meaning in (
        (Delivery.UNKNOWN, "May have been sent."),
        (Delivery.QUARANTINED, "Wait for a person."),
    ):
        family = GaugeMetricFamily(f"notifier_deliveries_{state}", meaning, labels=["channel"])
        for channel in Channel:
            family.add_metric([channel], counts.get((channel, state), 0))
        yield family
    campaigns = {row.state: row.n for row in session.execute(_CAMPAIGNS)}
    family = GaugeMetricFamily("notifier_campaigns", "Campaigns by state.", labels=["state"])
    for one in Campaign:
        family.add_metric([one], campaigns.get(one, 0))
    yield family
    beats = GaugeMetricFamily(
        "notifier_heartbeat_age_seconds", "Since a process was last at work.", labels=["role"]
    )
    for role, seconds in standing.ages(session).items():
        beats.add_metric([role], seconds)
    yield beats
    breakers = GaugeMetricFamily(
        "notifier_breaker_open",
        "Providers and receivers with a breaker that is not closed.",
        labels=["scope", "state"],
    )
    for scope in open_scopes(session):
        breakers.add_metric([scope.scope, scope.state], 1)
    yield breakers
    yield GaugeMetricFamily(
        "notifier_receipts_unapplied",
        f"Stored but not yet applied, counted up to {standing.MOST_RECEIPTS}.",
        value=standing.receipts_waiting(session),
    )
