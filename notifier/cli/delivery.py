"""`notifier delivery …`: one notice to one contact, from its first try to its end. Never the contact itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text
from sqlalchemy import select
from sqlalchemy.orm import Session

from notifier import controlling, following
from notifier.cli import common
from notifier.cli.campaign import CampaignId
from notifier.controlling import Again, Chosen
from notifier.errors import InputError, NotFoundError
from notifier.models import Attempt, Campaign, Delivery, DeliveryPatient, Patient, Receipt
from notifier.providers.base import message_id
from notifier.states import Campaign as CampaignState
from notifier.states import Channel
from notifier.states import Delivery as State

if TYPE_CHECKING:
    from notifier.settings import Settings

app = typer.Typer(
    no_args_is_help=True, help="List deliveries, follow one from its first try to its end, send again."
)

#: number the database can count to
LARGEST = 2**63 - 1
_COLUMNS = (
    "id", "channel", "language", "variant", "state", "reason", "tries", "possibly_twice", "due_at",
)  # fmt: skip


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
    delivery: Annotated[
        int, typer.Argument(metavar="DELIVERY", help="The delivery's number.", min=1, max=LARGEST)
    ],
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
        hints = [dict(hint._mapping) for hint in following.hints(work.session, found)]
        stopped = _stopped(work.session, found, work.settings)
    document = common.columns_of(
        found, *_COLUMNS, "campaign_id", "crashes", "fence", "created_at", "first_tried_at", "receipt_at"
    )
    document |= {
        "stopped_by": stopped,
        "hints": hints,
        "patients": [common.columns_of(patient, "id", "row", "outcome", "outcome_reason") for patient in patients],
        "attempts": [_attempt(attempt) for attempt in attempts],
        "receipts": [_receipt(receipt) for receipt in receipts],
        "history": _history(found, attempts, receipts) + _wanted(found, hints),
    }

    def show(out: Console) -> None:
        nested = ("hints", "patients", "attempts", "receipts", "history")
        out.print(common.facts("delivery", {name: document[name] for name in document if name not in nested}))
        out.print(common.table("informs", ["id", "row", "outcome", "outcome_reason"], document["patients"]))
        out.print(common.table("history", ["at", "what", "code"], document["history"]))

    common.emit(document, as_json, show)


Ids = Annotated[
    list[int] | None, typer.Argument(metavar="[DELIVERY]...", help="Their numbers.", min=1, max=LARGEST)
]
OfCampaign = Annotated[
    int | None, typer.Option("--campaign", help="All of this campaign instead.", min=1, max=LARGEST)
]
Why = Annotated[str, typer.Option("--reason", help="Kept in the journal.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]
EvenTold = Annotated[
    bool, typer.Option("--even-told", help="Also to those whom another message told, or is about to tell.")
]


@app.command()
def replay(
    reason: Why,
    deliveries: Ids = None,
    campaign: OfCampaign = None,
    state: Annotated[
        State, typer.Option(help="With --campaign: failed, or unknown if it may go out twice.")
    ] = State.FAILED,
    code: Annotated[str | None, typer.Option(help="With --campaign: only those that ended with it.")] = None,
    possibly_twice: Annotated[
        bool, typer.Option("--possibly-twice", help="Also what may have arrived; it is then marked so.")
    ] = False,
    even_told: EvenTold = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: common.Json = False,
) -> None:
    """Send failed deliveries again, as if they had never been tried.

    Left alone is what may have arrived, and what nobody needs because another message told them. Of several
    deliveries for one person, one goes out.
    """
    chosen = choose(deliveries, campaign, code)

    def act(work: common.Work, dry_run: bool) -> Again:
        return controlling.replay(
            work.session,
            chosen,
            state,
            actor=work.actor,
            reason=reason,
            now=work.now,
            possibly_twice=possibly_twice,
            even_told=even_told,
            dry_run=dry_run,
        )

    act_on_chosen("sent again", act, dry_run=dry_run, yes=yes, as_json=as_json)


def choose(ids: Sequence[int] | None, campaign: int | None, code: str | None = None) -> Chosen:
    """Raises InputError unless either numbers or a campaign are given."""
    if bool(ids) == (campaign is not None):
        raise InputError("Say which: their numbers, or --campaign.")
    if code is not None and campaign is None:
        raise InputError("--code goes with --campaign.")
    return Chosen(ids=tuple(ids or ()), campaign_id=campaign, code=code)


def act_on_chosen(
    done: str, act: Callable[[common.Work, bool], Again], *, dry_run: bool, yes: bool, as_json: bool
) -> None:
    """Says what an act would do, asks, and does it. Raises ConflictError for a no; nothing to do is no error."""
    with common.database() as (database, settings):

        def run(dry: bool) -> Again:
            with common.transaction(database) as session:
                return act(common.Work(session, settings, common.actor(), common.now()), dry)

        found = run(True)
        if not dry_run and found.ids and not yes:
            Console(stderr=True).print(Text(_said(f"would be {done}", found)), soft_wrap=True)
            common.ask(f"{len(found.ids):,} {done}?", "Nothing was changed.", as_json)
        if not dry_run and found.ids:
            found = run(False)
    verb = f"would be {done}" if dry_run else done
    document = {"dry_run": dry_run, "deliveries": found.ids, "count": len(found.ids), "left": found.left}
    common.emit(document, as_json, lambda out: out.print(Text(_said(verb, found)), soft_wrap=True))


def _said(verb: str, found: Again) -> str:
    left = [f"{count:,} left alone: {controlling.LEFT[why]}." for why, count in sorted(found.left.items())]
    return "\n".join([f"{len(found.ids):,} {verb}.", *left])


def _attempt(attempt: Attempt) -> dict[str, Any]:
    names = ("fence", "provider", "notice_id", "started_at", "ended_at", "outcome", "code")
    return common.columns_of(attempt, *names) | {"provider_message_id": message_id(attempt.provider_message_id)}


def _receipt(receipt: Receipt) -> dict[str, Any]:
    names = ("id", "provider", "event", "code", "event_at", "received_at", "applied_at", "effect")
    return common.columns_of(receipt, *names) | {"provider_message_id": message_id(receipt.provider_message_id)}


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
    return [{"at": at, "what": what, "code": code} for at, what, code in steps]


def _wanted(delivery: Delivery, hints: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What comes next, and who has it in hand."""
    steps: list[tuple[datetime, str]] = [
        (hint["at"], f"in the hands of {hint['owner']} until then")
        for hint in hints
        if hint["kind"] == "lease" and following.is_held(delivery, hint["fence"])
    ]
    if delivery.due_at is not None and delivery.state != State.SENDING:
        steps.append((delivery.due_at, f"due ({delivery.state})"))
    return [{"at": at, "what": what, "code": delivery.reason} for at, what in steps]


def _stopped(session: Session, delivery: Delivery, settings: Settings) -> list[str]:
    """What keeps a delivery that waits from going out now."""
    provider = settings.email_provider if delivery.channel == Channel.EMAIL else "brevo-sms"
    stopped = [f"{scope}: {reason}" for scope, reason in following.holds_on(session, delivery, provider)]
    campaign = session.get_one(Campaign, delivery.campaign_id)
    if following.waits(delivery) and campaign.state != CampaignState.SENDING:
        stopped.insert(0, f"campaign {campaign.state}")
    return stopped
