"""Whether the process lives, whether it can work, and what the engine is doing, in numbers without people."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import product

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from pydantic import BaseModel
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from notifier import standing, startup, watching
from notifier.api.auth import Held
from notifier.api.problems import OPEN, answer, documented
from notifier.breakers import open_scopes
from notifier.errors import SealingError, ServiceError
from notifier.providers import PROVIDERS
from notifier.settings import Settings
from notifier.states import Campaign, Channel, Delivery
from notifier.store import Database

router = APIRouter(tags=["Health"])

#: several scrapers cost no more than one
_FRESH_S = 5.0


class Health(BaseModel):
    """That it works."""

    status: str


@router.get(
    "/healthz",
    summary="Is the process alive?",
    response_model=Health,
    responses=documented(400),
    openapi_extra=OPEN,
)
async def health() -> Health:
    """Says nothing of the database."""
    return Health(status="ok")


@router.get(
    "/readyz", summary="Can it work?", response_model=Health, responses=documented(400, 503), openapi_extra=OPEN
)
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
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **documented(400, 503)},
    openapi_extra=OPEN,
)
def metrics(request: Request) -> Response:
    """Read from the database, at most every few seconds. No label is about a person."""
    numbers: Metrics = request.app.state.metrics
    return Response(numbers.text(), media_type=CONTENT_TYPE_LATEST)


class Metrics:
    """The text of `/metrics`, computed anew when it is older than some seconds."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings
        self._lock = threading.Lock()
        self._text = b""
        self._until = float("-inf")

    def text(self) -> bytes:
        with self._lock:
            if time.monotonic() >= self._until:
                look = watching.redis_watch(self._settings.redis_url or "").read()
                with self._database.staff() as session:
                    families = [*measure(session), *measure_pace(session, self._settings)]
                families += measure_redis(look["queues"])
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


#: of more codes the most frequent are told
_MOST_CODES = 50


def measure_pace(session: Session, settings: Settings) -> Iterator[GaugeMetricFamily]:
    """How fast it goes, how it ends and what stops it; by `pace`, `heartbeat` and `hold`, with what is set."""
    document = standing.read(session, PROVIDERS, watching.limits(settings))
    yield _by(
        "notifier_rate_per_second",
        "Accepted a second, over the last minute.",
        "provider",
        {name: n / 60 for name, n in document["rate_per_min"].items()},
    )
    yield _by("notifier_limit_per_second", "The most that is set.", "provider", document["limit_per_s"])
    done = {name: one["done_in_s"] for name, one in document["forecast"].items()}
    yield _by(
        "notifier_done_in_seconds",
        "When all that waits is sent, at this rate; +Inf while it waits and nothing moves.",
        "channel",
        {name: math.inf if value is None else value for name, value in done.items()},
    )
    waiting = {name: one["pending"] for name, one in document["due"].items()}
    yield _by("notifier_deliveries_waiting", "In campaigns that send, due now or later.", "channel", waiting)
    yield GaugeMetricFamily("notifier_leases", "Claims of workers.", value=document["leases"])
    yield GaugeMetricFamily("notifier_deliveries_claimed", "Deliveries in claims.", value=document["claimed"])
    alive = [worker for worker in document["workers"] if worker["age_s"] <= standing.ALIVE_S]
    yield _by(
        "notifier_workers_alive",
        "Workers heard of in the last 10 s, by a channel they carry.",
        "channel",
        {str(channel): sum(channel in worker["channels"] for worker in alive) for channel in Channel},
    )
    lacking = {process for one in document["without_key"] for process in one["processes"]}
    yield GaugeMetricFamily(
        "notifier_processes_without_key",
        "Workers and test senders not given a master key that seals a campaign which is not over.",
        value=len(lacking),
    )
    yield GaugeMetricFamily("notifier_tests_waiting", "Tests nobody has sent.", value=document["tests_waiting"])
    held = GaugeMetricFamily("notifier_hold", "What is stopped, and by whom.", labels=["scope", "by"])
    for hold in document["holds"]:
        held.add_metric([hold["scope"], "engine" if hold["by"] == "engine" else "person"], 1)
    yield held
    yield from _ended(standing.ended(session))


def _ended(rows: list[standing.Ended]) -> Iterator[GaugeMetricFamily]:
    ended = GaugeMetricFamily(
        "notifier_handovers_15m",
        "How hand-overs of the last 15 minutes ended.",
        labels=["provider", "receiver", "outcome"],
    )
    codes: Counter[tuple[str, str]] = Counter()
    calls: Counter[str] = Counter()
    taken: Counter[str] = Counter()
    for row in rows:
        for outcome, n in (("accepted", row.accepted), ("refused", row.refused), ("unknown", row.unknown)):
            ended.add_metric([row.provider, row.receiver, outcome], n)
        calls[row.provider] += row.accepted + row.refused + row.unknown
        taken[row.provider] += row.accepted
        for code, n in row.codes:
            codes[row.provider, code] += n
    yield ended
    family = GaugeMetricFamily(
        "notifier_errors_15m",
        f"Codes of hand-overs that were not accepted, the {_MOST_CODES} most frequent.",
        labels=["provider", "code"],
    )
    for (provider, code), n in codes.most_common(_MOST_CODES):
        family.add_metric([provider, code], n)
    yield family
    # What a provider bills are hand-overs: this times its price is the cost of a recipient.
    yield _by(
        "notifier_handovers_per_recipient",
        "Hand-overs for each one accepted, over 15 minutes.",
        "provider",
        {name: n / taken[name] for name, n in calls.items() if taken[name]},
    )


def measure_redis(queues: watching.Queues | None) -> Iterator[GaugeMetricFamily]:
    """What Redis holds; of one that does not answer, only that."""
    yield GaugeMetricFamily("notifier_redis_up", "Whether Redis answers.", value=float(queues is not None))
    if queues is None:
        return
    for name, meaning in (
        ("waiting", "Tickets nobody has fetched."),
        ("unacked", "Tickets in workers' hands."),
        ("orphaned", "Tickets in nobody's hands; above 0 for a minute is a defect."),
        ("delayed", "Delayed messages; always 0."),
        ("dead", "Dead letters."),
        ("oldest_s", "Age of the ticket that waits longest, in seconds."),
    ):
        metric = f"notifier_queue_{name.replace('oldest_s', 'oldest_seconds')}"
        yield _by(metric, meaning, "queue", {key: getattr(one, name) for key, one in queues.queues.items()})
    yield GaugeMetricFamily("notifier_queue_consumers", "Consumers of Redis at work.", value=queues.consumers)
    yield GaugeMetricFamily("notifier_redis_used_bytes", "Memory of Redis.", value=queues.used_bytes)
    yield GaugeMetricFamily("notifier_redis_evicted_keys", "Keys Redis has dropped.", value=queues.evicted)


def _by(name: str, meaning: str, label: str, values: Mapping[str, float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, meaning, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family
