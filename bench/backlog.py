"""Control under a large backlog, as the receiver sees it: pause, pause without Redis, and a provider that stalls.

Times run from the commit of the act to the last message that the sink counts, so they are no shorter than what
the receiver saw. Afterwards nothing may come until a person lets it go on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from bench import deployment as deployments
from bench import generate, sinks
from bench.deployment import ACTOR, Deployment, deployed, engine, engine_pids, role
from bench.machine import MB, now_bytes, own_bytes
from bench.modes import Mode
from bench.scale import check_disk
from bench.sinks import Sink
from notifier import controlling
from notifier.cli.supervise import Supervisor
from notifier.rehearsal import servers

#: messages that must come before it counts as flowing
_FLOWING = 500
#: nothing may come for so long after a stop
_QUIET_S = 3.0
_REASON = "a measurement"


def run(
    mode: Mode, folder: Path, recipients: int, rounds: int, stall_s: float, say: Callable[[str], None]
) -> dict[str, Any]:
    """One campaign with so many due deliveries; figures of every stop, the slowest of the rounds."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)
    check_disk(folder, recipients)
    with ExitStack() as stack:
        sink = stack.enter_context(sinks.running(with_token=mode.has_token))
        deployment = stack.enter_context(deployed(folder, mode, sink))
        (campaign_id,) = generate.fill(deployment, recipients, 1, say)
        state = deployment.ask("SELECT state FROM campaign")
        if state == "cancelled":
            raise ValueError(f"{folder} was used to the end: its campaign is cancelled. Name an empty folder.")
        if state == "approved":
            say(f"{deployments.start(deployment, campaign_id):,} deliveries made")
        deployment.tidy()
        supervisor = stack.enter_context(engine(deployment, mode, idle=False))
        figures: dict[str, Any] = {"recipients": recipients, "rounds": rounds, "mode": mode.name}
        for name, (stop, go_on) in _stops(campaign_id, mode).items():
            times = [_stop_once(deployment, sink, stop, go_on) for _ in range(rounds)]
            figures[f"pause_{name}_s"] = max(stopped for stopped, _ in times)
            figures[f"resume_{name}_s"] = max(resumed for _, resumed in times)
            say(f"pause {name}: {figures[f'pause_{name}_s']:.3f} s, resume {figures[f'resume_{name}_s']:.3f} s")
        figures["slowest_pause_s"] = max(value for name, value in figures.items() if name.startswith("pause_"))
        figures["pause_without_redis_s"] = _stop_without_redis(deployment, sink, campaign_id)
        say(f"pause without Redis: {figures['pause_without_redis_s']:.3f} s")
        figures["left"] = deployment.ask("SELECT count(*) FROM delivery WHERE state = 'pending'")
        figures["twice"] = sink.counts().again
        figures |= _stall(deployment, supervisor, sink, stall_s)
        say(f"a worker grew by {figures['worker_growth_mb']:.1f} MB while the provider stalled")
        figures |= _cancel(deployment, sink, campaign_id)
        say(f"cancel: {figures['cancel_s']:.3f} s after a transaction of {figures['cancel_act_s']:.1f} s")
        return figures


Act = Callable[[Session], object]


def _stops(campaign_id: int, mode: Mode) -> dict[str, tuple[Act, Act]]:
    """What a person can stop, and how it goes on."""
    provider = mode.settings.get("NOTIFIER_EMAIL_PROVIDER", "smtp")
    scopes = {"everything": "everything", "channel": f"channel:{mode.channel}", "provider": f"provider:{provider}"}
    found: dict[str, tuple[Act, Act]] = {
        "campaign": (
            lambda session: controlling.pause(session, campaign_id, actor=ACTOR, reason=_REASON),
            lambda session: controlling.resume(session, campaign_id, actor=ACTOR),
        )
    }
    for name, scope in scopes.items():
        found[name] = (_hold(scope), _lift(scope))
    return found


def _hold(scope: str) -> Act:
    return lambda session: controlling.hold(session, scope, actor=ACTOR, reason=_REASON, now=datetime.now(UTC))


def _lift(scope: str) -> Act:
    return lambda session: controlling.lift(session, scope, actor=ACTOR)


def _stop_once(deployment: Deployment, sink: Sink, stop: Act, go_on: Act) -> tuple[float, float]:
    """Seconds from the commit to the last message, and from letting go on to the next one."""
    _await_flow(sink)
    with deployment.database.staff() as session:
        stop(session)
    stopped = _last_arrival(sink)
    before = sink.counts().distinct
    with deployment.database.staff() as session:
        go_on(session)
    begun = time.perf_counter()
    while sink.counts().distinct == before:
        if time.perf_counter() - begun > 60:
            raise RuntimeError("nothing came within 60 s of letting it go on")
        time.sleep(0.005)
    return stopped, time.perf_counter() - begun


def _stop_without_redis(deployment: Deployment, sink: Sink, campaign_id: int) -> float:
    """The same with Redis dead a moment before; it must flow again once both are back."""
    stop, go_on = _hold("everything"), _lift("everything")
    _await_flow(sink)
    with _no_redis(deployment):
        with deployment.database.staff() as session:
            stop(session)
        stopped = _last_arrival(sink)
    with deployment.database.staff() as session:
        go_on(session)
    _await_flow(sink)
    return stopped


def _cancel(deployment: Deployment, sink: Sink, campaign_id: int) -> dict[str, float]:
    """Cancelling writes every waiting row: the act itself takes its time, and the last call follows its commit."""
    begun = time.perf_counter()
    _await_flow(sink, 300)
    flows = time.perf_counter() - begun
    begun = time.perf_counter()
    with deployment.database.staff() as session:
        controlling.cancel(session, campaign_id, actor=ACTOR, reason=_REASON, now=datetime.now(UTC))
    act = time.perf_counter() - begun
    return {"flow_after_stall_s": flows, "cancel_act_s": act, "cancel_s": _last_arrival(sink)}


@contextmanager
def _no_redis(deployment: Deployment) -> Iterator[None]:
    valkey = servers.Valkey(deployment.folder)
    valkey.kill()
    try:
        yield
    finally:
        valkey.start()


def _await_flow(sink: Sink, patience_s: float = 120) -> None:
    wanted, deadline = sink.counts().distinct + _FLOWING, time.monotonic() + patience_s
    while sink.counts().distinct < wanted:
        if time.monotonic() > deadline:
            raise RuntimeError(f"nothing flows after {patience_s:.0f} s")
        time.sleep(0.005)


def _last_arrival(sink: Sink, patience_s: float = 60) -> float:
    """Seconds from now until the last message; it is the last when none follows for a while."""
    begun = last = time.perf_counter()
    seen = sink.counts()
    while time.perf_counter() - last < _QUIET_S:
        time.sleep(0.002)
        if (now := sink.counts()) != seen:
            seen, last = now, time.perf_counter()
        if last - begun > patience_s:
            raise RuntimeError(f"messages still come {patience_s:.0f} s after the stop")
    return last - begun


def _stall(deployment: Deployment, supervisor: Supervisor, sink: Sink, seconds: float) -> dict[str, float]:
    """Memory while the provider takes and answers nothing: the largest of each, and how much it grew.

    The first quarter is left for buffers to fill.
    """
    _await_flow(sink)
    pids = engine_pids(supervisor)
    held: dict[str, list[float]] = {}
    sink.stall()
    try:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for name, pid in pids.items():
                held.setdefault(name, []).append(now_bytes(pid) / MB)
            held.setdefault("postgres", []).append(own_bytes(deployment.pids["postgres"][0]) / MB)
            held.setdefault("valkey", []).append(now_bytes(deployment.pids["valkey"][0] or 0) / MB)
            time.sleep(seconds / 60)
    finally:
        sink.go_on()
    figures = {"stall_s": seconds}
    for name, values in held.items():
        kind = role(name)
        quarter = values[len(values) // 4]
        figures[f"{kind}_mb"] = max(figures.get(f"{kind}_mb", 0.0), *values)
        figures[f"{kind}_growth_mb"] = max(figures.get(f"{kind}_growth_mb", 0.0), values[-1] - quarter)
    return figures
