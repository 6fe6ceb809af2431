"""`notifier provider …`: who carries email and SMS."""

from __future__ import annotations

from typing import Any

import typer
from sqlalchemy import func, or_, select

from notifier.cli import common
from notifier.models import Hold
from notifier.providers import PROVIDERS
from notifier.settings import Settings
from notifier.states import Channel

app = typer.Typer(no_args_is_help=True, help="See who carries email and SMS, and who is on hold.")


@app.callback()
def provider() -> None:
    """See who carries email and SMS, and who is on hold."""


@app.command(name="list")
def list_(as_json: common.Json = False) -> None:
    """List the providers as they are set, without their secrets: which are in use, have their key (ready), report
    what became of messages (receipts), and what holds them."""
    with common.work() as work:
        holds = work.session.scalars(select(Hold).where(or_(Hold.until.is_(None), Hold.until > func.now()))).all()
    rows = []
    for entry in _configured(work.settings):
        stopping = [hold for hold in holds if _stops(hold.scope, entry)]
        reasons = [hold.reason for hold in stopping]
        rows.append(entry | {"holds": [hold.scope for hold in stopping], "reasons": reasons})
    common.emit_list(
        "providers",
        rows,
        as_json,
        ["name", "channel", "in_use", "at", "sender", "rate_per_s", "ready", "receipts", "holds", "reasons"],
    )


def _configured(settings: Settings) -> list[dict[str, Any]]:
    """Every provider there is; of those for email one is in use."""
    smtp, email, sms = settings.smtp, settings.brevo_email, settings.brevo_sms
    many = f" ({email.batch:,} a request)" if email.batch > 1 else ""
    set_ = {
        "smtp": {
            "at": f"{smtp.host}:{smtp.port} ({smtp.security})",
            "sender": smtp.sender,
            "rate_per_s": smtp.rate_per_s,
            "ready": True,
            "receipts": False,
        },
        "brevo-email": {
            "at": email.base_url + many,
            "sender": email.sender,
            "rate_per_s": email.rate_per_s * email.batch,
            "ready": email.api_key is not None,
            "receipts": email.webhook_token is not None,
        },
        "brevo-sms": {
            "at": sms.base_url,
            "sender": sms.sender,
            "rate_per_s": sms.rate_per_s,
            "ready": sms.api_key is not None,
            "receipts": True,
        },
    }
    return [
        {
            "name": name,
            "channel": channel,
            "in_use": channel is not Channel.EMAIL or name == settings.email_provider,
            **set_[name],
        }
        for name, channel in PROVIDERS.items()
    ]


def _stops(scope: str, entry: dict[str, Any]) -> bool:
    return scope in ("everything", f"channel:{entry['channel']}", f"provider:{entry['name']}")
