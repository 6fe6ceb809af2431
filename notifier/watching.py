"""What an operator must know at once: how engine and Redis stand, and what is wrong, with what to do.

The command line, the pages and the metrics read it here. What is wrong is a code with its values: the command
line says it in English (`said`), the pages in their reader's language.
"""

from __future__ import annotations

import functools
import json
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import redis
from sqlalchemy.orm import Session

from notifier import standing, startup
from notifier.errors import ServiceError
from notifier.providers import PROVIDERS
from notifier.settings import Settings
from notifier.states import Campaign as State
from notifier.states import Channel

EVERYTHING = "everything"
#: who sets a hold by itself: `controlling.ENGINE`
_ENGINE = "engine"
#: dramatiq's keys begin with it, and these are its queues: see `workers.broker`
_NAMESPACE = "notifier"
QUEUES = (*map(str, Channel), "control")
#: the sweeper speaks once a round, which may be long
SWEEPER_ALIVE_S = 60.0
#: a due delivery is taken within a second or two when all is well
LATE_S = 60.0
#: refusals by our own fault are a problem from so many of one kind on
_MANY_REFUSED = 10
#: an answer of Redis is shared by all who look for so long, waited for so long, and believed for so long
_FRESH_S, _WAIT_S, _BELIEVED_S = 1.0, 0.3, 15.0


def read(session: Session, settings: Settings, redis_look: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """How the engine and Redis stand. `wrong` says what is wrong with it."""
    look = redis_look or {"tickets": tickets(settings.redis_url or ""), "redis_unfit": unfit(settings.redis_url)}
    document = standing.read(session, PROVIDERS, limits(settings))
    document |= {name: look[name] for name in ("tickets", "redis_unfit")}
    document["refused"] = standing.refused(session, OUR_FAULT, _MANY_REFUSED)
    return document


def limits(settings: Settings) -> dict[str, float]:
    """Messages a second that each provider in use may be handed, as it is set."""
    email: dict[str, tuple[float, float]] = {
        "smtp": (settings.smtp.rate_per_s, settings.smtp.sender_rate_per_s),
        "brevo-email": (settings.brevo_email.rate_per_s * settings.brevo_email.batch, 0),
    }
    found = {
        settings.email_provider: email[settings.email_provider],
        "brevo-sms": (settings.brevo_sms.rate_per_s, settings.brevo_sms.sender_rate_per_s),
    }
    return {name: min(account, sender or account) for name, (account, sender) in found.items()}


# --- what is wrong ---------------------------------------------------------------------------------------


class Wrong(NamedTuple):
    """One thing that is wrong. `code` names the words for it, `values` go into them."""

    code: str
    values: dict[str, Any]
    #: what to look at, a key of `ADVICE`
    advice: str = ""


def wrong(status: Mapping[str, Any]) -> list[Wrong]:
    """What is wrong, the worst first; empty when everything moves."""
    found: list[Wrong] = []
    has_work = bool(status["campaigns"].get(State.SENDING))
    if status["redis_unfit"]:
        found.append(Wrong("redis_unfit", {"said": status["redis_unfit"]}))
    if status["tickets"] is None:
        found.append(Wrong("redis_away", {}))
    if has_work and not status["workers_alive"]:
        found.append(Wrong("no_worker", {}))
    found += _uncarried(status)
    found += [_without_key(**one) for one in status["without_key"]]
    for role, is_needed, alive_s in (
        ("feeder", has_work, standing.ALIVE_S),
        ("sweeper", has_work or status["receipts_waiting"], SWEEPER_ALIVE_S),
        ("test_sender", status["tests_waiting"], standing.ALIVE_S),
    ):
        age_s = status[f"{role}_age_s"]
        if is_needed and (age_s is None or age_s > alive_s):
            found.append(Wrong(f"{role}_gone", {"age_s": age_s}))
    found += [_held(hold) for hold in status["holds"]]
    found += [
        Wrong("breaker", {name: breaker[name] for name in ("scope", "state", "reason")})
        for breaker in status["breakers"]
    ]
    found += _paused(status)
    found += [Wrong("refused", dict(refused), advice_key(refused["code"])) for refused in status["refused"]]
    found += _late(status)
    if status["quarantined"]:
        found.append(Wrong("set_aside", {"count": status["quarantined"]}))
    return found


def unheard(settings: Settings) -> Iterator[Wrong]:
    """What is wrong with the settings: nobody would hear what becomes of messages."""
    if settings.email_provider == "brevo-email" and settings.brevo_email.webhook_token is None:
        yield Wrong("unheard", {})


def _uncarried(status: Mapping[str, Any]) -> Iterator[Wrong]:
    """Channels with work that no worker carries; nothing while a worker's channels are not known."""
    alive = [set(worker["channels"]) for worker in status["workers"] if worker["age_s"] <= standing.ALIVE_S]
    if alive and all(alive):
        for channel in status["due"].keys() - set().union(*alive):
            if status["due"][channel]["pending"]:
                yield Wrong("uncarried", {"channel": channel})


def _without_key(key: str, processes: Sequence[str]) -> Wrong:
    more = f" (+ {len(processes) - 5})" if processes[5:] else ""
    return Wrong("without_key", {"mark": key, "processes": ", ".join(processes[:5]) + more})


def _held(hold: Mapping[str, Any]) -> Wrong:
    values = {name: hold[name] for name in ("scope", "by", "until", "reason")}
    if hold["by"] == _ENGINE:
        return Wrong("held", values, advice_key(hold["reason"]))
    return Wrong("stopped", values)


def _paused(status: Mapping[str, Any]) -> list[Wrong]:
    """One for each reason, however many campaigns have it."""
    by_reason: dict[str | None, list[int]] = {}
    for one in status["paused"]:
        by_reason.setdefault(one["reason"] or None, []).append(one["campaign"])
    return [Wrong("paused", {"reason": reason, "campaigns": numbers}) for reason, numbers in by_reason.items()]


def _late(status: Mapping[str, Any]) -> Iterator[Wrong]:
    stopped = {hold["scope"] for hold in status["holds"]}
    for channel, counts in status["due"].items():
        is_held = stopped & {EVERYTHING, f"channel:{channel}"} or any(
            f"provider:{name}" in stopped for name, carried in PROVIDERS.items() if carried == channel
        )
        if not is_held and (counts["oldest_due_s"] or 0) > LATE_S:
            yield Wrong("late", {"channel": channel, "due": counts["due"], "age_s": counts["oldest_due_s"]})


# --- what to look at when a provider refuses ---------------------------------------------------------------

#: beginnings of codes that no person is to blame for, and a name for what to look at
_ADVICE_FOR = (
    (r"http_\d+_account_under_validation", "validation"),
    (r"http_402|http_\d+_not_enough_credits", "credit"),
    (r"http_(401|403)|http_\d+_(unauthorized|permission_denied)|smtp_53\d", "key"),
    (r"http_(?!408|429)[34]\d\d", "request"),
    (r"smtp_5\d\d_5\.(7\.|1\.[78])", "sender"),
    (r"unfit_header", "header"),
    (r"unfit_text", "text"),
    (r"connect_failed|connection_lost", "connection"),
    (r"http_429|smtp_4", "slower"),
)
#: codes that mean our fault: all of them but a request to slow down
OUR_FAULT = "^(" + "|".join(pattern for pattern, _ in _ADVICE_FOR[:-1]) + ")"
#: what the command line says; the pages have words of their own by the same keys
ADVICE = {
    "validation": "the provider has not released the account yet: ask it to",
    "credit": "the account has no credit left: fill it up",
    "key": "check the key, or the user name and password",
    "request": "the provider refuses what we ask for: check its address, the sender, "
    "and the notice's length and words",
    "sender": "our sender is refused: check its address, SPF, DKIM, and block lists",
    "header": "a doctor's name or address cannot stand in an email's headers: correct it",
    "text": "the notice holds {{, {% or {#, which the provider would act on: take it out of the facts",
    "connection": "it does not answer: check its address, port and security",
    "slower": "it asks us to slow down: nothing is to do",
    "other": "check the key and the relay or the provider",
}


def advice_key(code: str) -> str:
    """What to look at when a provider refuses or is held with this code: a key of `ADVICE`."""
    return next((key for pattern, key in _ADVICE_FOR if re.match(pattern, code)), "other")


def advice(code: str) -> str:
    """The same in English."""
    return ADVICE[advice_key(code)]


# --- as the command line says it ----------------------------------------------------------------------------


def said(one: Wrong) -> str:
    """What is wrong in one English sentence, with the command that mends it."""
    values = one.values
    match one.code:
        case "stopped" | "held":
            return _hold_said(one)
        case "paused":
            return _paused_said(values)
        case "breaker":
            return (
                f"{values['scope']} is {_BREAKER_WORDS.get(values['state'], values['state'])}: {values['reason']}"
            )
        case "refused":
            return (
                f"{values['provider']} refused {values['count']} in the last 15 minutes by no person's fault "
                f"({values['code']}): {ADVICE[one.advice]}."
            )
        case "feeder_gone" | "sweeper_gone" | "test_sender_gone":
            return _SAID[one.code].format(seen=_last_seen(values["age_s"]))
        case _:
            return _SAID[one.code].format(**values)


_SAID = {
    "redis_unfit": "{said}",
    "redis_away": "Redis cannot be used: nothing new is sent. Nothing is lost; bring it back.",
    "no_worker": "No worker is at work: start one by notifier worker.",
    "uncarried": "No worker carries {channel}: start one by notifier worker --channel {channel}.",
    "without_key": "The master key {mark} was not given to {processes}: what it seals waits for other processes. "
    'Start these anew with it: docs/operations.md, "Rotating keys".',
    "feeder_gone": "The feeder {seen}: start one by notifier feeder.",
    "sweeper_gone": "The sweeper {seen}: start one by notifier sweeper.",
    "test_sender_gone": "The process that sends tests {seen}: start one by notifier worker --control.",
    "late": "{channel}: {due} are due, the oldest for {age_s:.0f} s.",
    "set_aside": "{count} deliveries are set aside for a person: notifier quarantine list.",
    "unheard": "Nobody hears what becomes of emails after Brevo took them: set "
    "NOTIFIER_BREVO_EMAIL__WEBHOOK_TOKEN and give Brevo the address of its webhook.",
}
#: states of a breaker as a person reads them
_BREAKER_WORDS = {
    "open": "stopped by its breaker",
    "probing": "stopped by its breaker and being probed",
    "healing": "coming back, with a part of its rate",
}


def _hold_said(one: Wrong) -> str:
    scope, until, reason = one.values["scope"], one.values["until"], one.values["reason"]
    end = f"until {_in_words(until)}" if until else "until a person lets it go on"
    what = f"Stopped: {scope}, by {one.values['by']}, {end} ({reason})"
    if one.code == "held":
        return f"{what}: it goes on by itself then; {ADVICE[one.advice]}."
    return f"{what}. Let it go on by notifier queue go --scope {scope}."


def _paused_said(values: Mapping[str, Any]) -> str:
    numbers = [str(number) for number in values["campaigns"]]
    return (
        f"Paused: campaign {', '.join(numbers[:5])}{f' and {len(numbers) - 5} more' if numbers[5:] else ''} "
        f"({values['reason'] or 'no reason given'}). When that is mended: notifier campaign resume {numbers[0]}."
    )


def _last_seen(age_s: float | None) -> str:
    return "was never seen" if age_s is None else f"was last seen {age_s:.0f} s ago"


def _in_words(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def span(seconds: float | None, days: str = "days") -> str:
    """Seconds as a person says them: "35 s", "14 min", "3 h 20 min", "2 days 4 h"; "–" for None."""
    if seconds is None:
        return "–"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 120:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes // 1440} {days} {minutes % 1440 // 60} h"


# --- Redis ---------------------------------------------------------------------------------------------------


def unfit(url: str | None) -> str | None:
    """What is wrong with Redis, in words; None if nothing is. Raises SettingsError for a malformed URL."""
    try:
        startup.check_redis(url or "")
    except ServiceError as error:
        return error.message
    return None


def tickets(url: str) -> dict[str, dict[str, int]] | None:
    """Tickets waiting and in workers' hands, by channel; None if Redis does not answer."""
    client = startup.client(url)
    try:
        counts: dict[str, dict[str, int]] = {}
        for channel in Channel:
            waiting = int(client.llen(f"{_NAMESPACE}:{channel}"))
            known = int(client.hlen(f"{_NAMESPACE}:{channel}.msgs"))
            counts[str(channel)] = {"waiting": waiting, "taken": max(known - waiting, 0)}
        return counts
    except redis.RedisError:
        return None
    finally:
        client.close()


class Queue(NamedTuple):
    """One queue in Redis, as dramatiq keeps it."""

    #: nobody has fetched them
    waiting: int
    #: fetched, not acknowledged
    unacked: int
    #: known, but neither waiting nor in anybody's hands: more than 0 for a minute is a defect
    orphaned: int
    #: always 0: nothing is ever delayed, and nothing is retried by the queue
    delayed: int
    dead: int
    #: of the ticket that waits longest
    oldest_s: float


class Queues(NamedTuple):
    """What Redis holds and how it is."""

    queues: dict[str, Queue]
    #: consumers heard of in the last 30 s
    consumers: int
    used_bytes: int
    evicted: int


def queues(url: str) -> Queues | None:
    """Every queue with what is wrong in it; None if Redis does not answer."""
    client = startup.client(url)
    try:
        seconds, microseconds = client.time()
        now = seconds + microseconds / 1e6
        told = {**client.info("memory"), **client.info("stats")}
        return Queues(
            {name: _queue(client, name, now) for name in QUEUES},
            int(client.zcount(f"{_NAMESPACE}:__heartbeats__", (now - 30) * 1000, "+inf")),
            int(told.get("used_memory", 0)),
            int(told.get("evicted_keys", 0)),
        )
    except redis.RedisError:
        return None
    finally:
        client.close()


def _queue(client: redis.Redis, name: str, now: float) -> Queue:
    key = f"{_NAMESPACE}:{name}"
    held = sum(int(client.scard(acks)) for acks in client.scan_iter(f"{_NAMESPACE}:__acks__.*.{name}", 1000))
    waiting = int(client.llen(key))
    first = client.lindex(key, 0)
    kept = client.hget(f"{key}.msgs", first) if first is not None else None
    since = json.loads(kept)["message_timestamp"] / 1000 if kept else now
    return Queue(
        waiting=waiting,
        unacked=held,
        orphaned=max(int(client.hlen(f"{key}.msgs")) - waiting - held, 0),
        delayed=int(client.hlen(f"{key}.DQ.msgs")),
        dead=int(client.zcard(f"{key}.XQ")),
        oldest_s=max(now - since, 0.0),
    )


class RedisWatch:
    """Looks at Redis in a thread of its own: one that hangs keeps no page and no scrape waiting."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._last: tuple[float, dict[str, Any]] | None = None

    def read(self) -> dict[str, Any]:
        """`tickets`, `redis_unfit` and `queues`, a second old at most, or that Redis does not answer."""
        with self._lock:
            last, thread = self._last, self._thread
            if last is not None and time.monotonic() - last[0] < _FRESH_S:
                return last[1]
            if thread is None or not thread.is_alive():
                thread = self._thread = threading.Thread(target=self._look, daemon=True)
                thread.start()
        thread.join(_WAIT_S)
        last = self._last
        if last is not None and time.monotonic() - last[0] < _BELIEVED_S:
            return last[1]
        return {"tickets": None, "redis_unfit": None, "queues": None}

    def _look(self) -> None:
        found = {"tickets": tickets(self._url), "redis_unfit": unfit(self._url), "queues": queues(self._url)}
        self._last = (time.monotonic(), found)


@functools.lru_cache(maxsize=4)
def redis_watch(url: str) -> RedisWatch:
    """The one of this process."""
    return RedisWatch(url)
