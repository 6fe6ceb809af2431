"""`notifier delivery …`: one notice to one contact, from its first try to its end. Never the contact itself."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from sqlalchemy import select

from notifier.cli import common
from notifier.cli.campaign import CampaignId
from notifier.errors import NotFoundError
from notifier.models import Attempt, Campaign, Delivery, DeliveryPatient, Patient, Receipt
from notifier.states import Channel
from notifier.states import Delivery as State

app = typer.Typer(no_args_is_help=True, help="List deliveries, or follow one from its first try to its end.")

_COLUMNS = (
    "id", "channel", "language", "variant", "state", "reason", "tries", "possibly_twice", "due_at",
)  # fmt: skip
#: a mail server's words of acceptance may repeat the address; a provider's number does not
_PROVIDERS_NUMBER = re.compile(r"[A-Za-z0-9_-]{1,64}")


@app.command(name="list")
def list_(
    campaign: CampaignId,
    state: Annotated[State | None, typer.Option(help="Only those in this state.")] = None,
    channel: Annotated[Channel | None, typer.Option(help="Only this channel.")] = None,
    after: common.After = 0,
    limit: common.Limit = 200,
    as_json: common.Json = False,
) -> None:
    """List a campaign's deliveries."""
    with common.work() as work:
        if work.session.get(Campaign, campaign) is None:
            raise NotFoundError(f"There is no campaign {campaign}.")
        query = select(Delivery).where(Delivery.campaign_id == campaign, Delivery.id > after)
        if state is not None:
            query = query.where(Delivery.state == state)
        if channel is not None:
            query = query.where(Delivery.channel == channel)
        found = work.session.scalars(query.order_by(Delivery.id).limit(limit + 1)).all()
    rows = [common.columns_of(delivery, *_COLUMNS) for delivery in found[:limit]]
    last = rows[-1]["id"] if len(found) > limit else None
    only = "".join(f" --{name} {value}" for name, value in (("state", state), ("channel", channel)) if value)
    common.emit_list(
        "deliveries",
        rows,
        as_json,
        _COLUMNS,
        next=last,
        read_on=f"notifier delivery list {campaign}{only} --after {last}" if last else "",
    )


@app.command()
def show(
    delivery: Annotated[int, typer.Argument(metavar="DELIVERY", help="The delivery's number.", min=1)],
    as_json: common.Json = False,
) -> None:
    """Show a delivery's whole life: state, attempts and receipts with their times and codes."""
    with common.work() as work:
        found = work.session.get(Delivery, delivery)
        if found is None:
            raise NotFoundError(f"There is no delivery {delivery}.")
        attempts = work.session.scalars(
            select(Attempt).where(Attempt.delivery_id == delivery).order_by(Attempt.fence)
        ).all()
        receipts = work.session.scalars(
            select(Receipt).where(Receipt.delivery_id == delivery).order_by(Receipt.event_at, Receipt.id)
        ).all()
        patients = work.session.scalars(
            select(Patient)
            .join(DeliveryPatient, DeliveryPatient.patient_id == Patient.id)
            .where(DeliveryPatient.delivery_id == delivery)
            .order_by(Patient.id)
        ).all()
    document = common.columns_of(found, *_COLUMNS, "campaign_id", "crashes", "created_at", "first_tried_at")
    document |= {
        "patients": [common.columns_of(patient, "id", "row", "outcome", "outcome_reason") for patient in patients],
        "attempts": [_attempt(attempt) for attempt in attempts],
        "receipts": [_receipt(receipt) for receipt in receipts],
        "history": _history(found, attempts, receipts),
    }

    def show(out: Console) -> None:
        nested = ("patients", "attempts", "receipts", "history")
        out.print(common.facts("delivery", {name: document[name] for name in document if name not in nested}))
        out.print(common.table("informs", ["id", "row", "outcome", "outcome_reason"], document["patients"]))
        out.print(common.table("history", ["at", "what", "code"], document["history"]))

    common.emit(document, as_json, show)


def _attempt(attempt: Attempt) -> dict[str, Any]:
    names = ("id", "fence", "provider", "notice_id", "started_at", "ended_at", "outcome", "code")
    return common.columns_of(attempt, *names) | {"provider_message_id": _number(attempt.provider_message_id)}


def _receipt(receipt: Receipt) -> dict[str, Any]:
    names = ("id", "provider", "event", "code", "event_at", "received_at", "applied_at", "effect")
    return common.columns_of(receipt, *names) | {"provider_message_id": _number(receipt.provider_message_id)}


def _number(message_id: str | None) -> str | None:
    return message_id if message_id and _PROVIDERS_NUMBER.fullmatch(message_id) else None


def _history(delivery: Delivery, attempts: Sequence[Attempt], receipts: Sequence[Receipt]) -> list[dict[str, Any]]:
    """What happened, in the order of its own time, and what is due."""
    steps: list[tuple[Any, str, str | None]] = [(delivery.created_at, "created", None)]
    for number, attempt in enumerate(attempts, start=1):
        steps.append((attempt.started_at, f"try {number}: handed to {attempt.provider}", None))
        if attempt.ended_at is not None:
            steps.append((attempt.ended_at, f"try {number}: {attempt.outcome}", attempt.code))
    for receipt in receipts:
        effect = f", changes it to {receipt.effect}" if receipt.effect not in (None, "nothing") else ""
        steps.append((receipt.event_at, f"receipt of {receipt.provider}: {receipt.event}{effect}", receipt.code))
    steps.sort(key=lambda step: step[0])
    if delivery.due_at is not None:
        steps.append((delivery.due_at, f"due ({delivery.state})", delivery.reason))
    return [{"at": at, "what": what, "code": code} for at, what, code in steps]
