"""What Brevo's two APIs, email and SMS, share: requests, the meaning of their answers, and of reported events.

Brevo signs nothing it reports and sends no Retry-After (read 2026-11-25).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
from pydantic import SecretStr

from notifier.providers.base import Blame, Event, Kind, Outcome, Receipt, message_id
from notifier.providers.http import HttpClient, NoAnswer, NotSent
from notifier.providers.http_answer import Response

_RETRY_CONNECT = timedelta(seconds=5)
_WORD = re.compile(r"[A-Za-z][A-Za-z_ ]{0,39}")
#: codes that may be about the contact
_PARAMETER = frozenset({"invalid_parameter", "missing_parameter", "out_of_range"})
#: codes of an answer that are about the account, whatever its status
_ACCOUNT = frozenset({"unauthorized", "permission_denied", "not_enough_credits", "account_under_validation"})


def client(
    base_url: str, path: str, api_key: SecretStr | None, *, connections: int, timeout_s: float
) -> HttpClient:
    """A client of one of Brevo's addresses. Raises SettingsError for an unfit address or key."""
    headers = {
        "api-key": api_key.get_secret_value() if api_key else "",
        "content-type": "application/json",
        "accept": "application/json",
    }
    return HttpClient(base_url.rstrip("/") + path, headers, connections=connections, timeout_s=timeout_s)


def broken(error: NotSent | NoAnswer) -> Outcome:
    """A request that ended without an answer."""
    if isinstance(error, NotSent):
        return Outcome(Kind.REFUSED, "connect_failed", Blame.THROTTLED, _RETRY_CONNECT, raw=str(error))
    return Outcome(Kind.UNKNOWN, "no_answer", raw=str(error))


def said(response: Response) -> dict[str, Any]:
    """The object an answer holds; empty for anything else, such as a gateway's page."""
    try:
        data: Any = orjson.loads(response.body)
    except orjson.JSONDecodeError:
        return {}
    return data if isinstance(data, dict) else {}


def read(response: Response, is_persons: Callable[[str], bool]) -> Outcome:
    """What an answer means. `is_persons` tells from an error's text whether the contact is what is wrong.

    A 5xx is a refusal only with Brevo's own error in it. Without, it is a page of something in between, which may
    have passed the request on before: 502 and 504 say so (RFC 9110 §15.6.3, §15.6.5), and for 503 Fastly gives
    its "first byte timeout" (fastly.com/documentation/guides/vcl/errors), Envoy a connection that broke after the
    request. A Retry-After proves nothing: Varnish puts one into each page of its own. Read 2026-11-25.
    """
    answer = said(response)
    word, status = _word(answer), response.status
    code = f"http_{status}_{word}" if word else f"http_{status}"
    raw = f"{status} {response.body[:2000].decode('utf-8', 'replace')}"
    if status >= 400 and word in _ACCOUNT:
        return Outcome(Kind.REFUSED, code, Blame.OURS, raw=raw, hold=True)
    match status:
        case 200 | 201 | 202 if "messageId" in answer or "messageIds" in answer:
            return Outcome(
                Kind.ACCEPTED, "accepted", provider_message_id=message_id(answer.get("messageId")), raw=raw
            )
        case 429:
            return Outcome(Kind.REFUSED, code, Blame.THROTTLED, _reset_after(response.headers), raw=raw, hold=True)
        case 401 | 402 | 403:
            return Outcome(Kind.REFUSED, code, Blame.OURS, raw=raw, hold=True)
        case 400:
            if word in _PARAMETER and is_persons(str(answer.get("message", "")).lower()):
                return Outcome(Kind.REFUSED, "refused_contact", Blame.PERSON, raw=raw)
            return Outcome(Kind.REFUSED, code, Blame.OURS, raw=raw)
        case 408:  # the server did not get the request (RFC 9110 §15.5.9)
            return Outcome(Kind.REFUSED, code, Blame.LATER, raw=raw)
        case _ if status >= 500:
            if word:
                return Outcome(Kind.REFUSED, code, Blame.LATER, raw=raw)
            return Outcome(Kind.UNKNOWN, code, raw=raw)
        case _ if status < 300:
            # A success that names no message is not Brevo's: it may have come from something in between.
            return Outcome(Kind.UNKNOWN, code, raw=raw)
        case _:
            return Outcome(Kind.REFUSED, code, Blame.OURS, raw=raw)


def _word(answer: Mapping[str, Any]) -> str:
    """Brevo's code of an error, at most 40 letters; empty if there is none, as in what a gateway says."""
    word = answer.get("code")
    is_one = isinstance(word, str) and word.isascii() and word.replace("_", "").isalpha()
    return str(word)[:40] if is_one else ""


def _reset_after(headers: Mapping[bytes, bytes]) -> timedelta:
    for name in (b"retry-after", b"x-sib-ratelimit-reset"):
        try:
            seconds = float(headers[name])
        except (KeyError, ValueError):
            continue
        return timedelta(seconds=min(max(seconds, 0.1), 3600))
    return timedelta(seconds=1)


def events(body: bytes) -> list[dict[str, Any]]:
    """One event, or several in a list (`batched` webhooks). Raises ValueError for anything else."""
    data = orjson.loads(body)
    found = data if isinstance(data, list) else [data]
    if not found or not all(isinstance(event, dict) for event in found):
        raise ValueError("expected one event or a list of events")
    return found


def receipt(reference: str, event: dict[str, Any], words: Mapping[str, Event]) -> Receipt:
    """An event in our words; one that is not in `words` is noted. Raises ValueError without a word or a time."""
    found = (event[key] for key in ("msg_status", "event", "status") if isinstance(event.get(key), str))
    word: str | None = next(found, None)
    if word is None:
        raise ValueError("the event has no status")
    return Receipt(
        reference=reference,
        event=words.get(plain(word), Event.NOTED),
        code=word if _WORD.fullmatch(word) else "unreadable",
        at=_at(event),
        provider_message_id=message_id(event.get("messageId", event.get("message-id"))),
    )


def plain(word: str) -> str:
    """One form for the API's names and the webhooks': `hardBounces` and `hard_bounces` are the same."""
    return word.replace("_", "").lower()


def _at(event: dict[str, Any]) -> datetime:
    """`ts_epoch` (milliseconds, UTC) is the only time of an event without a zone in doubt."""
    for key, unit in (("ts_epoch", 1000.0), ("ts_event", 1.0), ("ts", 1.0)):
        value = event.get(key)
        if isinstance(value, int | float) and value > 0:
            return datetime.fromtimestamp(value / unit, UTC)
    raise ValueError("the event has no time (ts_epoch, ts_event or ts)")
