"""What happens to our own processes: killed, frozen, wrong clocks, rows that kill, too many feeders."""

from __future__ import annotations

import signal

from notifier.cli.drill.queue import enqueue
from notifier.cli.drill.run import Run, Scenario
from notifier.cli.drill.stage import LEASE_S, SHUTDOWN_S, WATCHDOG_S, WORKERS

#: a provider so slow that there is a middle to disturb
SLOW = {"latency_s": 0.15, "jitter_s": 0.1}


def killed_at_random(run: Run) -> None:
    """F1. Each kill comes at a moment nobody chose, also while another worker has just been killed."""
    stage = run.stage
    stage.trouble(email=SLOW, sms=SLOW)
    run.start()
    for _ in range(6):
        run.sending(run.sent() + 10)
        stage.pause(run.dice.uniform(0, 0.4))
        stage.kill(run.dice.choice(WORKERS))
    run.mended()


def killed_after_acceptance(run: Run) -> None:
    """F2. The servers take and count every message and hold back the answer; then the workers are killed."""
    stage = run.stage
    held = {"lost_reply": 1.0, "lost_reply_hangs_s": 30.0}
    stage.trouble(email=held, sms=held)
    run.start()
    run.sending(6)
    for name in WORKERS:
        stage.kill(name)
    stage.trouble()
    run.mended()
    stage.until("their rows are known to be in doubt", lambda: _gone(run) > 0, run.scenario.bound_s)


def _gone(run: Run) -> int:
    return int(
        run.scalar(
            "SELECT count(*) FROM attempt a JOIN delivery d ON d.id = a.delivery_id "
            "WHERE d.campaign_id = ANY(:ids) AND a.code = 'worker_gone'"
        )
    )


def terminated_with_servers_down(run: Run) -> None:
    """F10. SIGTERM while Redis is away, then while PostgreSQL is: out in time both times, and no row is lost."""
    stage = run.stage
    stage.trouble(email=SLOW, sms=SLOW)
    run.start()
    run.sending()
    stage.valkey.kill()
    run.measure("exit without Redis", _terminate_all(run), SHUTDOWN_S + 4)
    stage.valkey.start()
    stage.until("the workers are back", stage.is_at_work, 60)
    run.sending(run.sent() + 5)
    stage.postgres.kill()
    try:
        run.measure("exit without PostgreSQL", _terminate_all(run), SHUTDOWN_S + 4)
    finally:
        stage.restart_postgres()
    run.mended()


def _terminate_all(run: Run) -> float:
    """SIGTERM to both workers; how long the slower took."""
    pids = [run.stage.signal(name, signal.SIGTERM) for name in WORKERS]
    return max(run.stage.ended(pid, 30) for pid in pids)


def taken_for_dead(run: Run) -> None:
    """F11. Clocks 90 s ahead and behind, and a busy worker frozen beyond its lease: its late words are void."""
    stage = run.stage
    for name, skew in zip(WORKERS, ("90", "-90"), strict=True):
        stage.run_as(name, f"--skew={skew}")
    stage.until("the skewed workers are at work", stage.is_at_work, 60)
    stage.trouble(email=SLOW, sms=SLOW)
    run.start()
    run.sending()
    frozen = run.dice.choice(WORKERS)
    stage.freeze(frozen)
    stage.pause(LEASE_S + 1)
    stage.thaw()
    run.mended()


def poisoned(run: Run) -> None:
    """F17. A row that kills whoever works on it is set aside after three; everybody else is told."""
    stage = run.stage
    run.hold()
    run.start()
    poison = run.scalar("SELECT min(id) FROM delivery WHERE campaign_id = ANY(:ids) AND channel = 'email'")
    for name in WORKERS:
        stage.run_as(name, f"--kills={poison}")
    stage.until("the poisoned workers are at work", stage.is_at_work, 60)
    run.lift()
    run.mended()

    def is_aside() -> bool:
        for name in WORKERS:
            stage.forgive(name)
        return bool(stage.scalar("SELECT state = 'quarantined' FROM delivery WHERE id = :id", id=poison))

    stage.until("the row is set aside", is_aside, run.scenario.bound_s)
    run.expect(_asides(run) == 1, f"{_asides(run)} rows are set aside, not the poisoned one alone")


def _asides(run: Run) -> int:
    return int(run.scalar("SELECT count(*) FROM delivery WHERE campaign_id = ANY(:ids) AND state = 'quarantined'"))


def three_feeders(run: Run) -> None:
    """F18. Three feeders, every ticket twenty times, and the leading feeder killed: each row is sent once."""
    stage = run.stage
    stage.trouble(email=SLOW, sms=SLOW)
    for n in (1, 2):
        stage.add_feeder(f"feeder-{n}")
    run.start()
    run.sending()
    for channel in ("email", "sms"):
        for campaign_id in run.campaigns.values():
            epoch = stage.scalar("SELECT epoch FROM campaign WHERE id = :id", id=campaign_id)
            enqueue(stage, channel, f"send_{channel}", (1, campaign_id, epoch), times=20)
    stage.kill("feeder")
    run.mended()


def stuck(run: Run) -> None:
    """F5. A consumer thread dies for good, and later a loop is blocked: the watchdog ends each process, and a new
    one goes on."""
    stage = run.stage
    first, second = run.campaigns.values()
    stage.trouble(email=SLOW, sms=SLOW)
    _kill_a_consumer(run, first)
    _block_a_loop(run, second)
    run.mended()


def _kill_a_consumer(run: Run, campaign_id: int) -> None:
    """Redis answers with errors while a consumer holds delayed messages of an old release: it ends in giving
    them back."""
    stage = run.stage
    # Fewer than one consumer prefetches: who has all it may have asks Redis nothing, and meets no error.
    enqueue(stage, "email", "send_email", (0, 0, 0), times=5, eta_s=40)
    stage.until("somebody holds the delayed messages", lambda: stage.waiting("email") == 0, 20)
    run.start(campaign_id)
    run.sending()
    pids = [stage.pid(name) for name in WORKERS]
    for name in WORKERS:
        stage.forgive(name)
    with stage.broken_heartbeats():
        took = stage.until("a worker without its consumer ends", lambda: any(map(stage.is_gone, pids)), 30)
    run.measure("exit without a consumer", took, WATCHDOG_S + 5)


def _block_a_loop(run: Run, campaign_id: int) -> None:
    """A call inside a worker does not come back."""
    stage = run.stage
    run.hold()
    run.start(campaign_id)
    victim = stage.scalar(
        "SELECT min(id) FROM delivery WHERE campaign_id = :id AND channel = 'email'", id=campaign_id
    )
    mark = stage.folder / f"blocked-{run.name}"
    for name in WORKERS:
        stage.run_as(name, f"--blocks={victim}", f"--mark={mark}")
    stage.until("the workers are at work", stage.is_at_work, 60)
    pids = [stage.pid(name) for name in WORKERS]
    for name in WORKERS:
        stage.forgive(name)
    run.lift()
    stage.until("a loop is blocked", mark.exists, 30)
    took = stage.until("the worker whose loop is blocked ends", lambda: any(map(stage.is_gone, pids)), 30)
    run.measure("exit with a blocked loop", took, 1.25 * WATCHDOG_S + 5)


ALL = (
    Scenario("F1", "Workers are killed six times at random: nobody is lost.", 45, killed_at_random, 160),
    Scenario(
        "F2", "Workers are killed between acceptance and our commit: no blind resend.", 45, killed_after_acceptance
    ),
    Scenario("F5", "A consumer dies, a loop is blocked: the process ends and is started anew.", 45, stuck),
    Scenario(
        "F10", "SIGTERM while a server is down: out in time, no row lost.", 45, terminated_with_servers_down, 160
    ),
    Scenario("F11", "A live worker is taken for dead: its late words change nothing.", 45, taken_for_dead),
    Scenario("F17", "A row kills its workers: set aside, the rest is done.", 75, poisoned),
    Scenario("F18", "Three feeders and doubled tickets: each row is sent once.", 30, three_feeders),
)
