"""What happens to Redis: away, restarted, stalled, emptied, evicting; and tickets nobody knows any more."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor

from sqlalchemy import text

from notifier import controlling
from notifier.cli.drill.queue import enqueue
from notifier.cli.drill.run import ACTOR, Run, Scenario
from notifier.cli.drill.stage import NAMESPACE
from notifier.rehearsal.servers import Valkey

SLOW = {"latency_s": 0.15, "jitter_s": 0.1}
#: longer than the broker's client waits for an answer (`startup.client`: 5 s)
STALL_S = 5.6


def actor_fails_without_redis(run: Run) -> None:
    """F3. The database drops every ticket's connection while Redis is away: rows stay due, tickets come anew."""
    stage = run.stage
    stage.trouble(email=SLOW, sms=SLOW)
    run.start()
    run.sending()
    stage.valkey.kill()
    for _ in range(4):
        _drop_connections(run)
        stage.pause(0.3)
    stage.valkey.start()
    run.mended()


def _drop_connections(run: Run) -> None:
    """As when a database fails over: every connection but ours ends."""
    with run.stage.database.engine.connect() as connection:
        connection.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid() "
                "AND backend_type = 'client backend'"
            )
        )


def redis_restarts(run: Run) -> None:
    """F4. Redis restarts at once, and once more after two seconds: no message is stranded in it."""
    stage = run.stage
    stage.trouble(email=SLOW, sms=SLOW)
    run.start()
    run.sending()
    stage.valkey.restart()
    run.sending(run.sent() + 5)
    stage.valkey.stop()
    stage.pause(2)
    stage.valkey.start()
    run.mended()


def redis_stalls(run: Run) -> None:
    """F6. Redis answers nobody for longer than a client waits, while tickets are issued and fetched."""
    stage = run.stage
    stage.trouble(email=SLOW, sms=SLOW)
    stall = stage.stall_redis(STALL_S)
    run.start()
    stall.join()
    run.mended()


def redis_stalls_at_the_end_of_a_ticket(run: Run) -> None:
    """F7. Tickets end while Redis answers nobody: they are acknowledged later, and each row is sent once."""
    stage = run.stage
    stage.trouble(email=SLOW, sms=SLOW)
    run.start()
    run.sending(3)
    stall = stage.stall_redis(STALL_S)
    stall.join()
    run.mended()
    twice = run.scalar(
        "SELECT count(*) FROM delivery WHERE campaign_id = ANY(:ids) AND (possibly_twice OR crashes > 0)"
    )
    run.expect(twice == 0, f"{twice} rows were taken for lost although their workers lived")


def redis_emptied(run: Run) -> None:
    """F8. FLUSHALL in the middle, twice, and then Redis dies with its file: every ticket is issued anew."""
    stage = run.stage
    stage.trouble(email=SLOW, sms=SLOW)
    run.start()
    for _ in range(2):
        run.sending(run.sent() + 5)
        with stage.redis() as client:
            client.flushall()
    run.sending(run.sent() + 5)
    stage.valkey.kill()
    shutil.rmtree(stage.valkey.folder / "appendonlydir")
    stage.valkey.start()
    run.mended()


def redis_evicts(run: Run) -> None:
    """F9. With a wrong eviction policy no process starts; set at work it is reported, and nothing is lost."""
    stage = run.stage
    with ThreadPoolExecutor(2) as pool:
        starts = pool.map(lambda role: _refused(run, role), ("worker", "feeder"))
        stage.trouble(email=SLOW, sms=SLOW)
        run.start()
        run.sending()
        with stage.redis() as client:
            client.config_set("maxmemory-policy", "allkeys-lru")
            client.config_set("maxmemory", "1mb")
        said = stage.command("queue", "status", "--json")
        with stage.redis() as client:
            client.config_set("maxmemory", 0)
            client.config_set("maxmemory-policy", "noeviction")
        run.mended()
        reported = " ".join(json.loads(said.stdout)["problems"]) if said.returncode == 0 else said.stderr
        run.expect("allkeys-lru" in reported, "notifier queue status does not report the policy")
        for problem in filter(None, starts):
            run.expect(False, problem)


def _refused(run: Run, role: str) -> str | None:
    """What is wrong when a process is started with a Redis that would drop keys; None if it refused in words."""
    wrong = Valkey(run.stage.folder / f"evicting-{role}", durable=False, maxmemory_policy="allkeys-lru")
    url = wrong.start()
    try:
        ended = run.stage.command(role, REDIS_URL=url)
    finally:
        wrong.stop()
    if ended.returncode == 1 and "noeviction" in ended.stderr:
        return None
    return f"a {role} started with a Redis that drops keys (exit status {ended.returncode})"


def old_tickets(run: Run) -> None:
    """F16. Tickets of other releases, other campaigns and earlier epochs, and one for an actor that is no more."""
    stage = run.stage
    stage.trouble(email=SLOW, sms=SLOW)
    run.start()
    run.sending()
    with stage.database.staff() as session:
        for campaign_id in run.campaigns.values():
            controlling.pause(session, campaign_id, actor=ACTOR, reason="drill")
            controlling.resume(session, campaign_id, actor=ACTOR)
    for channel in ("email", "sms"):
        for campaign_id in run.campaigns.values():
            for epoch in (0, 1, 2, 9):
                enqueue(stage, channel, f"send_{channel}", (1, campaign_id, epoch))
            enqueue(stage, channel, f"send_{channel}", (99, campaign_id, 1))
        enqueue(stage, channel, f"send_{channel}", (1, 2**40, 1))
    run.expect(sum(stage.left_in_queue().values()) == 0, "a dead letter was there before")
    enqueue(stage, "email", "send_letter", (1, 1, 1))
    stage.until("the unknown actor's message is set aside", lambda: _set_aside(run) == 1, 20)
    run.mended()


def _set_aside(run: Run) -> int:
    """Takes the one dead letter away again, which a person would look at; returns how many there were."""
    dead = f"{NAMESPACE}:email.XQ"
    with run.stage.redis() as client:
        found = int(client.zcard(dead))
        if found == 1:
            client.delete(dead, f"{dead}.msgs")
    return found


ALL = (
    Scenario("F3", "Tickets fail while Redis is away: they are issued anew.", 30, actor_fails_without_redis),
    Scenario("F4", "Redis restarts: no delayed message is stranded, there is none.", 30, redis_restarts),
    Scenario("F6", "Redis stalls while tickets are issued and fetched: no second message.", 30, redis_stalls),
    Scenario(
        "F7", "Redis stalls while tickets are acknowledged: one run each.", 30, redis_stalls_at_the_end_of_a_ticket
    ),
    Scenario("F8", "Redis loses everything, three times: nobody is lost.", 30, redis_emptied),
    Scenario("F9", "Redis would drop keys: refused at start, reported at work.", 45, redis_evicts),
    Scenario("F16", "Tickets of other releases and epochs: harmless.", 30, old_tickets),
)
