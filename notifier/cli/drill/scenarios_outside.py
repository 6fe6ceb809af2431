"""What happens outside: providers that hang, fail or throttle, and a database that is gone for a while."""

from __future__ import annotations

from notifier.cli.drill import law
from notifier.cli.drill.run import Run, Scenario
from notifier.cli.drill.stage import FATES
from notifier.rehearsal.faults import Fate, fate
from notifier.states import Channel

_KEYS = "SELECT id, data_key FROM campaign WHERE id = ANY(:ids)"
_FAILED = """
    SELECT d.campaign_id, d.channel, d.reason, k.value_sealed
    FROM delivery d JOIN contact k ON k.id = d.contact_id WHERE d.campaign_id = ANY(:ids) AND d.state = 'failed'
"""
#: deliveries with more tries than hand-overs that count, and how many hand-overs were throttled
_THROTTLED = """
    SELECT count(*) FILTER (WHERE tries > counting), sum(throttled) FROM (
        SELECT d.tries, count(*) FILTER (WHERE code !~ '^(smtp_421|smtp_450|http_429|not_sent)') AS counting,
               count(*) FILTER (WHERE code ~ '^(smtp_421|smtp_450|http_429)') AS throttled
        FROM delivery d JOIN attempt a ON a.delivery_id = d.id WHERE d.campaign_id = ANY(:ids) GROUP BY d.id
    ) each
"""
SLOW = {"latency_s": 0.15, "jitter_s": 0.1}


def provider_hangs(run: Run) -> None:
    """F12. Every call hangs for longer than we wait, some are taken all the same; then all is well again."""
    stage = run.stage
    before = stage.starts()
    hangs = {"latency_s": 4.0}
    stage.trouble(email=hangs, sms=hangs)
    run.start()
    stage.until("calls are made", lambda: _calls(run) > 0, 20)
    stage.pause(4)
    stage.trouble()
    run.mended()
    stage.until("every patient has an outcome", run.is_over, run.scenario.bound_s)
    run.expect(stage.starts() == before, "a process was started anew: its connections were not usable afterwards")


def provider_fails(run: Run) -> None:
    """F13. Every call is answered by an error of the provider: few are made, and nobody is given up for it."""
    stage = run.stage
    broken = {"broken": 1.0}
    stage.trouble(email=broken, sms=broken)
    run.start()
    stage.until("calls are made", lambda: _calls(run) > 0, 20)
    stage.pause(4)
    calls, rows = _calls(run), _deliveries(run)
    stage.trouble()
    run.mended()
    run.ended.measured["calls per row in the outage"] = round(calls / rows, 2)
    run.expect(calls <= 2 * rows, f"{calls} calls in the outage for {rows} rows: more than two each")
    stage.until("every patient has an outcome", run.is_over, run.scenario.bound_s)
    run.expect(_given_up(run) == 0, f"{_given_up(run)} deliveries were given up for the provider's fault")


def provider_throttles(run: Run) -> None:
    """F14. Every tenth call is answered "too many": no such try counts, and nobody is given up."""
    stage = run.stage
    throttled = {"throttled": 0.1}
    stage.trouble(email=throttled, sms=throttled)
    run.start()
    run.mended()
    stage.until("every patient has an outcome", run.is_over, run.scenario.bound_s)
    run.expect(_given_up(run) == 0, f"{_given_up(run)} deliveries were given up because of a throttle")
    counted, throttled_calls = run.rows(_THROTTLED)[0]
    run.expect(throttled_calls > 0, "no call was throttled: nothing was tried")
    run.expect(counted == 0, f"{counted} deliveries have a try counted that was only throttled")


def _calls(run: Run) -> int:
    return run.stage.asked() - run.stage.asked_before


def _deliveries(run: Run) -> int:
    return int(run.scalar("SELECT count(*) FROM delivery WHERE campaign_id = ANY(:ids)"))


def _given_up(run: Run) -> int:
    """Deliveries that failed although the servers refuse nothing to their contact, and not for doubt."""
    stage = run.stage
    keys = {id_: stage.settings.master.open_data_key(key, id_) for id_, key in run.rows(_KEYS)}
    contacts = [
        (Channel(row.channel), keys[row.campaign_id].open(row.value_sealed, b"contact.value").decode())
        for row in run.rows(_FAILED)
        if row.reason not in law.EXCUSED
    ]
    faults = {Channel.EMAIL: FATES.email, Channel.SMS: FATES.sms}
    return sum(fate(faults[channel], stage.seed, contact) is Fate.ARRIVES for channel, contact in contacts)


def database_away(run: Run) -> None:
    """F15. PostgreSQL dies and stays away: a second later no call starts; when it is back, all goes on."""
    stage = run.stage
    stage.trouble(email=SLOW, sms=SLOW)
    run.start()
    run.sending()
    stage.postgres.kill()
    try:
        # A call may start within a second, and then takes its time.
        stage.pause(1.0 + SLOW["latency_s"] + SLOW["jitter_s"] + 0.3)
        asked = stage.asked()
        stage.pause(2.5)
        later = stage.asked() - asked
        run.expect(later == 0, f"{later} calls were made without the database")
    finally:
        stage.restart_postgres()
    run.mended()


ALL = (
    Scenario("F12", "A provider hangs: its connections are usable afterwards.", 45, provider_hangs),
    Scenario("F13", "A provider fails: few calls, nobody is given up.", 45, provider_fails),
    Scenario("F14", "A provider throttles one call in ten: no try counts.", 30, provider_throttles),
    Scenario("F15", "The database is away: no call, and all goes on afterwards.", 45, database_away, 160),
)
