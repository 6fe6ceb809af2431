"""`notifier provider …`: who carries email and SMS."""

from __future__ import annotations

import re
from typing import Any

import typer
from sqlalchemy import func, or_, select

from notifier.cli import common
from notifier.models import Hold
from notifier.providers.brevo_sms import BrevoSmsProvider
from notifier.providers.smtp import SmtpProvider
from notifier.settings import Settings
from notifier.states import Channel

app = typer.Typer(no_args_is_help=True, help="See who carries email and SMS, and who is on hold.")

#: by the channel each carries
PROVIDERS = {SmtpProvider.name: Channel.EMAIL, BrevoSmsProvider.name: Channel.SMS}


@app.callback()
def provider() -> None:
    """See who carries email and SMS, and who is on hold."""


@app.command(name="list")
def list_(as_json: common.Json = False) -> None:
    """List the providers as they are set, without their secrets, and whether each may send now."""
    with common.work() as work:
        holds = work.session.scalars(select(Hold).where(or_(Hold.until.is_(None), Hold.until > func.now()))).all()
    rows = []
    for entry in _configured(work.settings):
        stopping = [hold for hold in holds if _stops(hold.scope, entry)]
        reasons = [hold.reason for hold in stopping]
        rows.append(entry | {"holds": [hold.scope for hold in stopping], "reasons": reasons})
    common.emit_list(
        "providers", rows, as_json, ["name", "channel", "at", "sender", "rate_per_s", "ready", "holds", "reasons"]
    )


#: beginnings of codes that no person is to blame for, and what to look at; see `providers` for the codes
_ADVICE = (
    (r"http_(401|403)|smtp_53\d", "check the key, or the user name and password"),
    (r"http_402", "the account has no credit left: fill it up"),
    (r"http_(400|404)", "the provider refuses what we ask for: check its address and the sender's name"),
    (r"smtp_5\d\d_5\.(7\.|1\.[78])", "our sender is refused: check its address, SPF, DKIM, and block lists"),
    (r"unfit_header", "a doctor's name or address cannot stand in an email's headers: correct it"),
    (r"connect_failed|connection_lost", "the relay does not answer: check its address, port and security"),
    (r"http_429|smtp_4", "it asks us to slow down: nothing is to do"),
)
#: codes of `_ADVICE` that mean our fault: everything but a request to slow down
OUR_FAULT = "^(" + "|".join(pattern for pattern, _ in _ADVICE[:-1]) + ")"


def advice(code: str) -> str:
    """What to look at when a provider refuses or is held with this code."""
    found = (said for pattern, said in _ADVICE if re.match(pattern, code))
    return next(found, "check the key and the relay or the provider")


def _configured(settings: Settings) -> list[dict[str, Any]]:
    smtp, sms = settings.smtp, settings.brevo_sms
    return [
        {
            "name": SmtpProvider.name,
            "channel": Channel.EMAIL,
            "at": f"{smtp.host}:{smtp.port} ({smtp.security})",
            "sender": smtp.sender,
            "rate_per_s": smtp.rate_per_s,
            "ready": True,
        },
        {
            "name": BrevoSmsProvider.name,
            "channel": Channel.SMS,
            "at": sms.base_url,
            "sender": sms.sender,
            "rate_per_s": sms.rate_per_s,
            "ready": sms.api_key is not None,
        },
    ]


def _stops(scope: str, entry: dict[str, Any]) -> bool:
    return scope in ("everything", f"channel:{entry['channel']}", f"provider:{entry['name']}")
