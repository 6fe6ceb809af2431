"""The page that answers: are we sending, how fast, who waits, what fails, when are we done."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup
from starlette.responses import Response

from notifier import receivers, sentences, standing, watching
from notifier.accounts import STAFF
from notifier.models import Hold
from notifier.states import Campaign as State
from notifier.watching import Wrong
from notifier.web.operations import words
from notifier.web.operations.chart import lines
from notifier.web.pages import Pages, Visit

pages = Pages()

#: of longer lists on the page the first are shown
FIRST = 20
#: codes named in a line of errors
_CODES = 3


@pages.get("/operations", allow=STAFF)
def home(visit: Visit) -> Response:
    """The whole page. With `?still=1` it does not move by itself (WCAG 2.2, 2.2.2)."""
    still = visit.request.query_params.get("still") == "1"
    return _shown(visit, "operations/home.html", still=still)


@pages.part("/operations/now", allow=STAFF)
def now(visit: Visit) -> Response:
    """What of the page changes."""
    return _shown(visit, "operations/now.html", still=False)


def _shown(visit: Visit, template: str, **values: Any) -> Response:
    settings = visit.site.settings
    look = watching.redis_watch(settings.redis_url or "").read()
    with visit.transaction() as session:
        document = watching.read(session, settings, look)
        ended = standing.ended(session)
        history = standing.history(session)
        slowest = standing.slowest(session, most=FIRST)
        paused = standing.slowest(session, State.PAUSED, FIRST)
        stopped = words.held(session)
    wrong = [*watching.wrong(document), *watching.unheard(settings)]
    if document["tickets"] is None:  # one that does not answer has no settings to be mended
        wrong = [one for one in wrong if one.code != "redis_unfit"]
    return words.shown(
        visit,
        template,
        stopped,
        status_now=document,
        answer=answer(visit, document, stopped),
        wrong=[spoken(visit, one) for one in wrong],
        ended=ended[:FIRST],
        codes=_CODES,
        chart=chart(visit, history),
        carriers=list(history),
        slowest=slowest,
        paused=paused,
        limits=_limits(visit),
        ages={role: document[f"{role}_age_s"] for role in ("feeder", "sweeper", "test_sender")},
        seen_at=visit.now,
        **values,
    )


def answer(visit: Visit, document: Mapping[str, Any], stopped: Hold | None) -> dict[str, str]:
    """Whether we are sending, in one word and one sentence."""
    per_s = sum(one["per_s"] for one in document["forecast"].values())
    pending = sum(one["pending"] for one in document["due"].values())
    due = sum(one["due"] for one in document["due"].values())
    if stopped is not None:
        kind = "stopped"
    elif per_s:
        kind = "sending"
    elif due:
        kind = "stuck"
    elif pending:
        kind = "later"
    else:
        kind = "idle"
    ends = [one["done_in_s"] for one in document["forecast"].values()]
    end = max((one for one in ends if one is not None), default=None) if None not in ends else None
    return {
        "kind": kind,
        "title": visit.say(f"operations.answer_{kind}"),
        "rate": words.number(visit, round(per_s, 1)),
        "pending": words.number(visit, pending),
        "end": words.span(visit, end) if end is not None else visit.say("operations.end_unknown"),
    }


def spoken(visit: Visit, one: Wrong) -> dict[str, str]:
    """What is wrong and what to do, in their language, with the page that does it."""
    values = dict(one.values)
    if "age_s" in values:
        age_s = values["age_s"]
        values["seen"] = (
            visit.say("operations.never_seen")
            if age_s is None
            else visit.say("operations.seen_ago", span=words.span(visit, age_s))
        )
        values["age"] = words.span(visit, age_s)
    if "scope" in values:
        values["name"] = words.scope_name(visit, values["scope"])
    if "channel" in values:
        values["carried"] = visit.say(f"operations.channel_{values['channel']}")
    if "until" in values:
        until = values["until"]
        values["end"] = (
            visit.say("operations.until", at=words.clock(visit, until))
            if until
            else visit.say("operations.until_person")
        )
    for name in ("count", "due"):
        if name in values:
            values[name] = words.number(visit, values[name])
    if values.get("reason"):
        values["reason"] = sentences.reason(values["reason"], visit.language)
    if one.code == "paused":
        values["count"] = words.number(visit, len(values["campaigns"]))
        values["reason"] = values["reason"] or visit.say("operations.no_reason")
    if one.code == "breaker":
        values["how"] = visit.say(f"operations.breaker_{values['state']}")
    todo = visit.say(f"operations.do.{one.code}", **values)
    if one.advice:
        todo = f"{visit.say(f'operations.advice.{one.advice}')} {todo}".strip()
    return {
        "what": visit.say(f"operations.wrong.{one.code}", **values),
        "todo": todo,
        "href": _href(one),
        "label": visit.say(f"operations.link.{one.code}") if _href(one) else "",
        "is_act": "yes" if one.code in ("stopped", "breaker") else "",
    }


def _href(one: Wrong) -> str:
    match one.code:
        case "stopped" | "breaker":
            return f"/operations/go/{one.values['scope']}"
        case "paused":
            numbers = one.values["campaigns"]
            return (
                f"/operations/campaigns/{numbers[0]}"
                if len(numbers) == 1
                else "/operations/campaigns?state=paused"
            )
        case "set_aside":
            return "/operations/set-aside"
        case "refused":
            return "/operations/failed"
        case _:
            return ""


def chart(visit: Visit, history: Mapping[str, list[int]]) -> Markup:
    """Messages a second of each provider in the last hour."""
    per_s = {name: [n / 60 for n in values] for name, values in history.items()}
    label = visit.say("operations.chart_label", names=", ".join(per_s) or "–")
    return lines(per_s, label, visit.say("operations.hour_ago"), visit.say("operations.now"))


def _limits(visit: Visit) -> list[tuple[str, float | None, str]]:
    """What is limited, to how many messages a second (None: not), and the setting that says so."""
    settings = visit.site.settings
    sections = {"smtp": "smtp", "brevo-email": "brevo_email", "brevo-sms": "brevo_sms"}
    found: list[tuple[str, float | None, str]] = [
        (f"provider:{name}", rate, f"[{sections[name]}] rate_per_s")
        for name, rate in watching.limits(settings).items()
    ]
    found.append(("campaign:", settings.engine.campaign_rate_per_s or None, "[engine] campaign_rate_per_s"))
    groups = receivers.load(settings.config_dir).rates
    found += [
        (f"receiver:{name}", rate, f"receivers.toml [{name}] rate_per_s") for name, rate in sorted(groups.items())
    ]
    return found
