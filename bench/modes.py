"""What is measured: one mode for each way a notice leaves, its rivals, and what it must reach."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from notifier.states import Channel

#: no limit of a provider stands in the way of a measurement
UNLIMITED = "1000000"


@dataclass(frozen=True, slots=True)
class Mode:
    """One way of sending. `settings` are environment variables, `{smtp}` and `{http}` the sink's ports."""

    name: str
    words: str
    channel: Channel
    settings: Mapping[str, str]
    #: (rivals' harness, its mode) that do the same work
    rivals: tuple[tuple[str, str], ...] = ()
    #: worker processes; rivals have two
    workers: int = 2
    #: the sink answers after so long
    latency_ms: int = 0
    #: whether the rivals' sink can count it: it looks for a token in the recipient's address
    has_token: bool = True
    #: what it must reach: recipients per second, and CPU seconds of ours per 1,000
    least_per_s: float | None = None
    most_cpu_s: float | None = None


_SMTP = {
    "NOTIFIER_SMTP__PORT": "{smtp}",
    "NOTIFIER_SMTP__SECURITY": "none",
    "NOTIFIER_SMTP__RATE_PER_S": UNLIMITED,
    "NOTIFIER_SMTP__MESSAGES_PER_CONNECTION": UNLIMITED,
}
_EMAIL_API = {
    "NOTIFIER_EMAIL_PROVIDER": "brevo-email",
    "NOTIFIER_BREVO_EMAIL__BASE_URL": "http://127.0.0.1:{http}/v3",
    "NOTIFIER_BREVO_EMAIL__RATE_PER_S": UNLIMITED,
}
_SMS = {
    "NOTIFIER_BREVO_SMS__BASE_URL": "http://127.0.0.1:{http}/v3",
    "NOTIFIER_BREVO_SMS__RATE_PER_S": UNLIMITED,
}

MODES = {
    mode.name: mode
    for mode in (
        Mode(
            "http",
            "email, one HTTP request each",
            Channel.EMAIL,
            _EMAIL_API | {"NOTIFIER_BREVO_EMAIL__BATCH": "1"},
            rivals=(("bullmq", "http"), ("dramatiq", "http"), ("celery", "http"), ("ours-aiohttp", "http")),
            least_per_s=6_000,
            most_cpu_s=0.28,
        ),
        Mode(
            "batch",
            "email, 1,000 own texts a request",
            Channel.EMAIL,
            _EMAIL_API | {"NOTIFIER_BREVO_EMAIL__BATCH": "1000"},
            rivals=(("ours-batch100", "http"),),
            least_per_s=15_000,
            most_cpu_s=0.12,
        ),
        Mode(
            "email",
            "email, SMTP over kept connections",
            Channel.EMAIL,
            _SMTP,
            rivals=(
                ("bullmq", "smtp"),
                ("postoffice", "smtp"),
                ("celery", "smtp"),
                ("dramatiq", "smtp"),
                ("ours", "smtp"),
            ),
            least_per_s=10_000,
            most_cpu_s=0.15,
        ),
        Mode("sms", "SMS, one request each", Channel.SMS, _SMS, has_token=False),
        Mode(
            "sms-50ms",
            "SMS, one request each, the provider answers after 50 ms, one worker process",
            Channel.SMS,
            # 3,000 a second at 50 ms are 150 in flight by arithmetic
            _SMS | {"NOTIFIER_BREVO_SMS__CONCURRENCY": "250"},
            workers=1,
            latency_ms=50,
            has_token=False,
            least_per_s=3_000,
        ),
    )
}

#: what rivals are, in a reader's words
RIVALS = {
    "dramatiq": "naive dramatiq, httpx or smtplib",
    "celery": "celery, threads",
    "bullmq": "BullMQ, undici or nodemailer",
    "postoffice": "django-post_office",
    "ours": "sketch without guarantees, pipelined SMTP",
    "ours-aiohttp": "sketch without guarantees, httpx-aiohttp",
    "ours-batch100": "sketch without guarantees, 100 a request",
}


@dataclass(frozen=True, slots=True)
class Target:
    """One line of what the product must reach. `figure` is where it stands among the results."""

    words: str
    figure: str
    limit: float
    unit: str
    #: the measured value must be at least the limit, else at most
    at_least: bool = True

    def is_met(self, value: float) -> bool:
        return value >= self.limit if self.at_least else value <= self.limit


def _targets() -> tuple[Target, ...]:
    found: list[Target] = []
    for mode in MODES.values():
        if mode.least_per_s:
            found.append(Target(mode.words, f"{mode.name}.recipients_per_s", mode.least_per_s, "recipients/s"))
        if mode.most_cpu_s:
            words = f"{mode.words}: CPU of our processes"
            found.append(Target(words, f"{mode.name}.ours_cpu_s", mode.most_cpu_s, "CPU-s per 1,000", False))
    return (
        *found,
        Target("import, one process", "import.rows_per_s", 20_000, "rows/s"),
        Target("import: its memory at 1,000,000 rows", "import.peak_mb_at_1000000", 300, "MB", False),
        Target("lists: contacts taken that are not the person's", "lists.wrong_per_1000", 0, "per 1,000", False),
        Target("lists: usable contacts that are missed", "lists.missed_per_1000", 5, "per 1,000", False),
        Target("fan-out of an approved campaign", "fan-out.deliveries_per_s", 200_000, "deliveries/s"),
        Target("start to first message, alone", "email.first_message_s", 2, "s", False),
        Target("start to first message, 1,500 campaigns at once", "scale.slowest_first_s", 10, "s", False),
        Target("pause to last call, large backlog", "backlog.slowest_pause_s", 1, "s", False),
        Target("the same, Redis gone", "backlog.pause_without_redis_s", 1, "s", False),
        Target("cancel to last call, large backlog", "backlog.cancel_s", 1, "s", False),
        Target("a worker's memory", "email.worker_mb", 200, "MB", False),
        Target("a worker's memory, large backlog, provider stalled", "backlog.worker_mb", 200, "MB", False),
        Target("Valkey's memory", "email.valkey_mb", 10, "MB", False),
        Target("the slowest page or API answer at scale", "scale.page_ms", 100, "ms", False),
        Target("the operators' page at scale", "scale.operators_page_ms", 300, "ms", False),
        Target("cost per recipient at scale over that at 20,000", "scale.cost_ratio", 1.10, "times", False),
    )


TARGETS = _targets()


@dataclass(slots=True)
class Series:
    """Several runs of one thing: each figure's runs, in order."""

    runs: dict[str, list[float]] = field(default_factory=dict)

    def add(self, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self.runs.setdefault(name, []).append(value)
