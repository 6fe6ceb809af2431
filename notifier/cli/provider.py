"""`notifier provider …`: who carries email and SMS."""

from __future__ import annotations

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
    rows = [
        entry | {"holds": [hold.scope for hold in holds if _stops(hold.scope, entry)]}
        for entry in _configured(work.settings)
    ]
    common.emit_list(
        "providers", rows, as_json, ["name", "channel", "at", "sender", "rate_per_s", "ready", "holds"]
    )


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
