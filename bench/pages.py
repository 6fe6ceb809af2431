"""How long pages and the API take at this size, and the plans of what they ask.

One browser at a time asks a real API process over HTTP, signed in as each page needs; a page that is made once
and kept by the browser is asked for anew each time. The plans come from another process that explains each
statement before it runs it (`bench.explained`), so they slow nothing that is timed.
"""

from __future__ import annotations

import secrets
import statistics
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import httpx

from bench.deployment import ACTOR, Deployment
from bench.explained import busiest
from notifier import accounts
from notifier.accounts import Role, Source, Stage
from notifier.api import auth
from notifier.cli import supervise
from notifier.cli.supervise import Supervisor
from notifier.rehearsal.servers import free_port

#: requests of each page that are timed, after some that warm it
TIMED, WARM = 20, 3
#: whom a page is asked as
OPERATOR, DOCTOR, PROGRAM = "operator", "doctor", "program"

#: (as whom, name, path); {large} is the largest campaign, {delivery} one of its own
PAGES = (
    (OPERATOR, "operators' view", "/operations"),
    (OPERATOR, "operators' view: what moves", "/operations/now"),
    (OPERATOR, "campaigns", "/operations/campaigns"),
    (OPERATOR, "largest campaign", "/operations/campaigns/{large}"),
    (OPERATOR, "its failed deliveries", "/operations/campaigns/{large}/deliveries?state=failed"),
    (OPERATOR, "set aside", "/operations/set-aside"),
    (OPERATOR, "a delivery's life", "/operations/deliveries/{delivery}"),
    (DOCTOR, "doctor's overview", "/doctor"),
    (DOCTOR, "list", "/doctor/campaigns/{large}/list"),
    (DOCTOR, "notice", "/doctor/campaigns/{large}/notice"),
    (DOCTOR, "progress", "/doctor/campaigns/{large}/progress"),
    (DOCTOR, "people", "/doctor/campaigns/{large}/people"),
    (DOCTOR, "people on the way", "/doctor/campaigns/{large}/people?which=on_the_way"),
    (DOCTOR, "people informed", "/doctor/campaigns/{large}/people?which=informed"),
    (DOCTOR, "unreached", "/doctor/campaigns/{large}/unreached"),
    (DOCTOR, "numbers to declare", "/doctor/campaigns/{large}/declare"),
    (DOCTOR, "proof", "/doctor/campaigns/{large}/proof"),
    (PROGRAM, "API: campaigns", "/api/v1/campaigns"),
    (PROGRAM, "API: a campaign", "/api/v1/campaigns/{large}"),
    (PROGRAM, "API: its deliveries", "/api/v1/deliveries?campaign={large}"),
    (PROGRAM, "API: its failed deliveries", "/api/v1/deliveries?campaign={large}&state=failed"),
    (PROGRAM, "API: a delivery", "/api/v1/deliveries/{delivery}"),
    (PROGRAM, "API: changes", "/api/v1/changes"),
    (PROGRAM, "metrics", "/metrics"),
)

#: the largest campaign that has begun, its doctor, and one of its deliveries
_CHOSEN = """
    SELECT c.id, c.doctor_id, (SELECT min(d.id) FROM delivery d WHERE d.campaign_id = c.id)
    FROM campaign c JOIN tally t ON t.campaign_id = c.id GROUP BY c.id ORDER BY sum(t.n) DESC LIMIT 1
"""
_READY_S = 60


def run(deployment: Deployment) -> dict[str, Any]:
    """Milliseconds of each page, the median and the slowest, and the plans of their statements.

    Raises ValueError where no campaign has begun, and where a page is not answered with 200.
    """
    deployment.tidy()
    with deployment.database.engine.connect() as connection:
        chosen = connection.exec_driver_sql(_CHOSEN).one_or_none()
    if chosen is None:
        raise ValueError("no campaign has begun: take the step `start` first")
    large, doctor_id, delivery = chosen
    known = _callers(deployment, doctor_id)
    pages = [(whom, name, path.format(large=large, delivery=delivery)) for whom, name, path in PAGES]
    with _api(deployment, "notifier.api", {}) as base:
        times = {name: _timed(base + path, known[whom]) for whom, name, path in pages}
    plans = deployment.folder / "pages.jsonl"
    plans.unlink(missing_ok=True)
    with _api(deployment, "bench.explained", {"BENCH_PLANS": str(plans)}) as base:
        for whom, _, path in pages:
            _ask(base + path, known[whom])
    return {
        "pages": [
            {"name": name, "path": path, "ms": statistics.median(times[name]), "slowest_ms": max(times[name])}
            for _, name, path in PAGES
        ],
        "page_ms": max(statistics.median(times[name]) for _, name, _ in PAGES if name != PAGES[0][1]),
        "operators_page_ms": statistics.median(times[PAGES[0][1]]),
        "page_plans": busiest(plans.read_text(encoding="utf-8").splitlines()),
    }


def _callers(deployment: Deployment, doctor_id: int) -> dict[str, Mapping[str, str]]:
    """Headers of somebody signed in, of each kind."""
    now, master = datetime.now(UTC), deployment.current.master
    found: dict[str, Mapping[str, str]] = {}
    with deployment.database.staff() as session:
        for whom, role in ((OPERATOR, Role.OPERATOR), (DOCTOR, Role.DOCTOR)):
            account = accounts.create(
                session,
                master,
                role=role,
                email=f"{whom}-{secrets.token_hex(4)}@example.org",
                doctor_id=doctor_id if role is Role.DOCTOR else None,
                actor=ACTOR,
            )
            token = accounts.open_session(session, account, Stage.FULL, Source(), now=now)
            found[whom] = {"Cookie": f"pn_session={token}", "Accept": "text/html"}
        _, secret = auth.make_key(session, "bench", None, actor=ACTOR)
    return found | {PROGRAM: {"Authorization": f"Bearer {secret}"}}


@contextmanager
def _api(deployment: Deployment, module: str, more: Mapping[str, str]) -> Iterator[str]:
    """An API process on a port of its own; its address, once it answers."""
    port = free_port()
    base = f"http://127.0.0.1:{port}"
    environment = deployment.environment | {
        "NOTIFIER_API_PORT": str(port),
        "NOTIFIER_PUBLIC_URL": base,
        **more,
    }
    supervisor = Supervisor(environment, deployment.folder / "log")
    supervisor.add("api", module, *(["api"] if module != "notifier.api" else []))
    with supervisor:
        deadline = time.monotonic() + _READY_S
        while True:
            try:
                httpx.get(f"{base}/readyz").raise_for_status()
                break
            except httpx.HTTPError as error:
                if time.monotonic() > deadline:
                    error.add_note(supervise.last_line(deployment.folder / "log" / "api.log"))
                    raise
                time.sleep(0.1)
        yield base


def _timed(url: str, headers: Mapping[str, str]) -> list[float]:
    """Milliseconds of each of some requests."""
    times = []
    for number in range(WARM + TIMED):
        begun = time.perf_counter()
        _ask(url, headers)
        if number >= WARM:
            times.append((time.perf_counter() - begun) * 1000)
    return times


def _ask(url: str, headers: Mapping[str, str]) -> None:
    answer = httpx.get(url, headers=dict(headers), timeout=60)
    if answer.status_code != httpx.codes.OK:
        raise ValueError(f"{url} answers {answer.status_code}")
