"""`notifier campaign …`: one doctor's campaign, from draft to its end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.text import Text
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from notifier import controlling, profiles, store
from notifier.cli import common
from notifier.errors import ConflictError, InputError, NotFoundError
from notifier.models import Campaign, Delivery, Doctor, Incident, ListFile, PatientTally
from notifier.states import Campaign as State
from notifier.states import Channel, Outcome, Variant
from notifier.states import Delivery as DeliveryState

if TYPE_CHECKING:
    from notifier.acts import Draft
    from notifier.notices import Gap
    from notifier.settings import Settings

app = typer.Typer(no_args_is_help=True, help="One doctor's campaign: preview, approve, start, pause, watch.")

CampaignId = Annotated[int, typer.Argument(metavar="CAMPAIGN", help="The campaign's number.", min=1)]
_Reason = Annotated[str, typer.Option(help="Kept in the journal and shown with the campaign.")]
_NOT_STARTED = (State.DRAFT, State.READY, State.APPROVED)
_ENDED = (State.COMPLETED, State.CANCELLED)


@app.command()
def create(
    incident: Annotated[str, typer.Argument(metavar="INCIDENT", help="Its reference or number.")],
    doctor: Annotated[str, typer.Argument(metavar="DOCTOR", help="Reference or number.")],
    as_json: common.Json = False,
) -> None:
    """Create the campaign of one doctor for one incident."""
    with common.work() as work:
        made = controlling.create(
            work.session,
            work.settings.master,
            common.find(work.session, Incident, incident).id,
            common.find(work.session, Doctor, doctor).id,
            actor=work.actor,
        )
        document = report(work.session, made.id, work.settings)
    _show(document, as_json)


@app.command(name="list")
def list_(
    state: Annotated[State | None, typer.Option(help="Only those in this state.")] = None,
    incident: Annotated[str | None, typer.Option(help="Only this incident's: its reference or number.")] = None,
    as_json: common.Json = False,
) -> None:
    """List campaigns with their state."""
    with common.work() as work:
        query = select(Campaign, Doctor, Incident).join(Doctor, Doctor.id == Campaign.doctor_id)
        query = query.join(Incident, Incident.id == Campaign.incident_id).order_by(Campaign.id)
        if state is not None:
            query = query.where(Campaign.state == state)
        if incident is not None:
            query = query.where(Incident.id == common.find(work.session, Incident, incident).id)
        rows = [_head(*found) for found in work.session.execute(query)]
    columns = ["id", "incident", "doctor", "doctor_name", "state", "reason", "started_at", "completed_at"]
    common.emit_list("campaigns", rows, as_json, columns)


@app.command()
def show(campaign: CampaignId, as_json: common.Json = False) -> None:
    """Show one campaign: its people in numbers that add up, its deliveries, and what to do next."""
    with common.work() as work:
        document = report(work.session, campaign, work.settings)
    _show(document, as_json)


@app.command()
def preview(
    campaign: CampaignId,
    name: Annotated[str, typer.Option(help="A made-up patient's name; without one, as for a nameless one.")] = "",
    language: Annotated[str | None, typer.Option(help="Only this language (fr, en).")] = None,
    variant: Annotated[Variant | None, typer.Option(help="Only this variant.")] = None,
    as_json: common.Json = False,
) -> None:
    """Show the notice as it stands, every text its patients need, what is missing, and the hash to approve."""
    # Here and below: the steps behind it take half a second to import, which `show` and `list` do without.
    from notifier import acts

    with common.work() as work:
        draft = acts.draft(work.session, work.settings, campaign)
    document = _preview(draft, name, language, variant)

    def show(out: Console) -> None:
        for text in document["previews"]:
            cost = f", {text['parts']} SMS" if text["parts"] else ""
            out.rule(f"{text['channel']}, {text['language']}, {text['variant']}{cost}")
            # Without wrapping or markup: the text exactly as it would be sent.
            out.print(Text("\n".join(filter(None, [text["subject"], text["text"]]))), soft_wrap=True)
        out.rule()
        for kind in ("missing", "warnings"):
            if document[kind]:
                columns = ["channel", "language", "variant", "part", "problem", "words"]
                out.print(common.table(kind, columns, document[kind]))
        _say_hash(out, document)

    common.emit(document, as_json, show)


def _say_hash(out: Console, document: Mapping[str, Any]) -> None:
    approved, current = document["approved_hash"], document["hash"]
    if approved == current:
        out.print(f"This text is approved: {current}", highlight=False)
        return
    if approved:
        out.print(f"Approved, and sent, is another text: {approved}", style="bold", highlight=False)
    out.print(f"Hash of this text: {current}", highlight=False)


@app.command()
def approve(
    campaign: CampaignId,
    seen: Annotated[str, typer.Option("--hash", help="The hash that the preview showed.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask again.")] = False,
    as_json: common.Json = False,
) -> None:
    """Freeze the text that was previewed, as the only one this campaign can send."""
    from notifier import acts

    with common.database() as (database, settings):
        if not yes:
            with common.transaction(database) as session:
                patients = report(session, campaign, settings)["patients"]
            question = f"Approve this text for the {patients['on_the_way']:,} patients of campaign {campaign}?"
            common.ask(question, "Nothing was approved.", as_json)
        with common.transaction(database) as session:
            acts.approve(session, settings, campaign, expected_hash=seen, actor=common.actor(), now=common.now())
            document = report(session, campaign, settings)
    _show(document, as_json)


@app.command(name="test")
def send_test(
    campaign: CampaignId,
    to: Annotated[str, typer.Option(help="Your own email address or mobile number.")],
    channel: Annotated[Channel | None, typer.Option(help="By default what the address is.")] = None,
    language: Annotated[str | None, typer.Option(help="By default the first its patients need.")] = None,
    variant: Annotated[Variant | None, typer.Option(help="By default the first its patients need.")] = None,
    wait: Annotated[float, typer.Option(help="Seconds to wait for the result.", min=0)] = 30.0,
    as_json: common.Json = False,
) -> None:
    """Send yourself the notice as it stands, marked as a test and made out to a made-up patient."""
    from notifier import acts, testsends

    with common.database() as (database, settings):
        with common.transaction(database) as session:
            draft = acts.draft(session, settings, campaign)
            first = draft.composed.notices[0]
            made = testsends.ask(
                session,
                settings.master,
                draft.campaign,
                draft.preview(testsends.MADE_UP_NAME, language or first.language, variant or first.variant),
                to=to,
                channel=channel,
                notice_hash=draft.hash,
                region=settings.default_region,
                actor=common.actor(),
                now=common.now(),
            )
        until = time.monotonic() + wait
        while not testsends.State(made.state).is_final and time.monotonic() < until:
            threading.Event().wait(0.1)
            with common.transaction(database) as session:
                made = testsends.find(session, campaign, made.id)
    if made.state != testsends.State.ACCEPTED:
        raise ConflictError(f"Test {made.id}: {testsends.in_words(made)}")
    names = ("campaign_id", "id", "channel", "language", "variant", "state", "code", "asked_at", "ended_at")
    document = common.columns_of(made, *names) | {"hash": made.notice_hash.hex(), "next": testsends.in_words(made)}
    common.emit(document, as_json, lambda out: out.print(common.facts("test", document)))


@app.command()
def start(campaign: CampaignId, as_json: common.Json = False) -> None:
    """Start sending an approved campaign."""
    from notifier import acts

    with common.work() as work:
        made = acts.start(work.session, campaign, actor=work.actor, now=work.now)
        document = report(work.session, campaign, work.settings) | {"deliveries_made": made}
    _show(document, as_json)


@app.command()
def pause(campaign: CampaignId, reason: _Reason, as_json: common.Json = False) -> None:
    """Stop sending within a second; what is in the provider's hands already goes out."""
    with common.work() as work:
        controlling.pause(work.session, campaign, actor=work.actor, reason=reason)
        document = report(work.session, campaign, work.settings)
    _show(document, as_json)


@app.command()
def resume(campaign: CampaignId, as_json: common.Json = False) -> None:
    """Go on where a paused campaign stopped; nobody who was told is told again."""
    with common.work() as work:
        controlling.resume(work.session, campaign, actor=work.actor)
        document = report(work.session, campaign, work.settings)
    _show(document, as_json)


@app.command()
def cancel(
    campaign: CampaignId,
    reason: _Reason,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask again.")] = False,
    as_json: common.Json = False,
) -> None:
    """End a campaign for good: who was told stays told, nobody else will be."""
    with common.database() as (database, settings):
        if not yes:
            waiting = _look(database, campaign, settings)["patients"]["on_the_way"]
            question = f"End campaign {campaign} for good? {waiting:,} patients are still on the way."
            common.ask(question, "Nothing was cancelled.", as_json)
        with common.transaction(database) as session:
            controlling.cancel(session, campaign, actor=common.actor(), reason=reason, now=common.now())
            document = report(session, campaign, settings)
    _show(document, as_json)


@app.command()
def watch(
    campaign: CampaignId,
    every: Annotated[float, typer.Option(help="Seconds between two looks.", min=0.05)] = 1.0,
    as_json: common.Json = False,
) -> None:
    """Watch a campaign until it is completed or cancelled. Ctrl-C stops the watching, not the campaign.

    Not on a terminal, a line is printed whenever the numbers have changed, at most one per second.
    """
    console = Console(stderr=True)
    with common.database() as (database, settings):
        document = _look(database, campaign, settings)
        if document["state"] in _NOT_STARTED:
            raise ConflictError(f"Campaign {campaign} is {document['state']}. {document['next']}")
        try:
            with _picturing(console, document) as show:
                show(document)
                while document["state"] not in _ENDED:
                    threading.Event().wait(every)
                    document = _look(database, campaign, settings)
                    show(document)
        except KeyboardInterrupt:
            console.print("No longer watching; the campaign goes on.")
    if as_json:
        _show(document, as_json)


@contextmanager
def _picturing(console: Console, document: Mapping[str, Any]) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """What shows one look after the other: a picture that moves on a terminal, else plain lines."""
    if not console.is_terminal:
        yield _Lines(console)
        return
    with Live(_picture(document), console=console, refresh_per_second=4) as live:
        yield lambda document: live.update(_picture(document))


class _Lines:
    """Prints a line for each change of the numbers, at most one per second; the end is always said."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._said = ""
        self._at = float("-inf")

    def __call__(self, document: Mapping[str, Any]) -> None:
        line = _line(document)
        late = self._clock() - self._at >= 1 or document["state"] in _ENDED
        if line != self._said and late:
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)
            self._said, self._at = line, self._clock()


def _line(document: Mapping[str, Any]) -> str:
    deliveries = {
        channel: counts
        for channel, states in document["deliveries"].items()
        if (counts := {state: count for state, count in states.items() if count})
    }
    numbers = [common.in_words(document["patients"])]
    numbers += [f"{channel}: {common.in_words(counts)}" for channel, counts in deliveries.items()]
    return f"Campaign {document['id']} ({document['doctor_name']}): {document['state']}; {'; '.join(numbers)}"


# --- what is said about a campaign -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Wait:
    """Deliveries of one channel and state, and when the first and the last of them are due."""

    channel: Channel
    state: DeliveryState
    count: int
    first: datetime
    last: datetime


def report(session: Session, campaign_id: int, settings: Settings) -> dict[str, Any]:
    """Everything `campaign show` says. Raises NotFoundError."""
    campaign = session.get(Campaign, campaign_id, populate_existing=True)
    if campaign is None:
        raise NotFoundError(f"There is no campaign {campaign_id}.")
    doctor = session.get_one(Doctor, campaign.doctor_id)
    incident = session.get_one(Incident, campaign.incident_id)
    patients = store.outcome_counts(session, campaign_id)
    deliveries = store.delivery_counts(session, campaign_id)
    twice = select(func.count()).where(Delivery.campaign_id == campaign_id, Delivery.possibly_twice)
    reasons = store.patient_counts(session, campaign_id, PatientTally.outcome, PatientTally.reason)
    silence = profiles.load(incident.profile, settings.config_dir).silence
    return _head(campaign, doctor, incident) | {
        "plan": campaign.plan,
        "notice_hash": campaign.notice_hash.hex() if campaign.notice_hash else None,
        **common.columns_of(campaign, "approved_at", "approved_by", "created_at"),
        "lists": _lists(session, campaign_id),
        "patients": patients,
        "unreached": {str(row.reason): row.n for row in reasons if row.outcome == Outcome.UNREACHED},
        "deliveries": deliveries,
        "possibly_twice": session.scalar(twice),
        "next": next_step(
            campaign.id,
            State(campaign.state),
            campaign.reason,
            patients,
            deliveries,
            _waits(session, campaign_id),
            {channel: rule.means for channel, rule in silence.items()},
            common.now(),
        ),
    }


def _lists(session: Session, campaign_id: int) -> dict[str, int]:
    """How many lists, data rows and refused rows were read."""
    sums = select(
        func.count(), func.coalesce(func.sum(ListFile.rows), 0), func.coalesce(func.sum(ListFile.refused), 0)
    ).where(ListFile.campaign_id == campaign_id)
    return dict(zip(("files", "rows", "refused"), map(int, session.execute(sums).one()), strict=True))


def _waits(session: Session, campaign_id: int) -> list[Wait]:
    waiting = (DeliveryState.PENDING, DeliveryState.UNKNOWN, DeliveryState.ACCEPTED)
    query = (
        select(
            Delivery.channel, Delivery.state, func.count(), func.min(Delivery.due_at), func.max(Delivery.due_at)
        )
        .where(Delivery.campaign_id == campaign_id, Delivery.state.in_(waiting), Delivery.due_at.is_not(None))
        .group_by(Delivery.channel, Delivery.state)
        .order_by(Delivery.channel, Delivery.state)
    )
    return [
        Wait(Channel(channel), DeliveryState(state), count, first, last)
        for channel, state, count, first, last in session.execute(query)
        if first is not None and last is not None
    ]


def next_step(
    number: int,
    state: State,
    reason: str | None,
    patients: Mapping[str, int],
    deliveries: Mapping[str, Mapping[str, int]],
    waits: Sequence[Wait],
    silence: Mapping[Channel, str],
    now: datetime,
) -> str:
    """What a person should do now, or what is being waited for and until when.

    `silence` says what no news about an accepted delivery means: "informed" or "failed" (the legal profile).
    """
    quarantined = sum(states["quarantined"] for states in deliveries.values())
    match state:
        case State.DRAFT if not patients["imported"]:
            return f"Import the doctor's list: notifier patients import {number} FILE"
        case State.DRAFT | State.READY:
            return f"Look at the notice, then approve it by its hash: notifier campaign preview {number}"
        case State.APPROVED:
            return f"Start it: notifier campaign start {number}"
        case State.PAUSED:
            return (
                f"Paused ({reason or 'no reason given'}): nothing more is sent. Go on where it stopped: "
                f"notifier campaign resume {number}"
            )
        case State.SENDING | State.COMPLETED if quarantined:
            return (
                f"Look at what is set aside ({quarantined}): notifier delivery list {number} --state quarantined"
            )
        case State.SENDING if _is_sending(deliveries, waits, now):
            return f"Nothing: it is sending. Watch it: notifier campaign watch {number}"
        case State.SENDING:
            return f"Nothing to do: {_waited_for(waits, silence)}."
        case _:
            return " ".join(_at_the_end(number, patients, waits, silence))


def _is_sending(deliveries: Mapping[str, Mapping[str, int]], waits: Sequence[Wait], now: datetime) -> bool:
    """Whether a delivery is due, in a worker's hands, or about to be made."""
    at_work = sum(states.get(DeliveryState.SENDING, 0) for states in deliveries.values())
    due = any(wait.state == DeliveryState.PENDING and wait.first <= now for wait in waits)
    return bool(at_work) or due or not waits


def _at_the_end(
    number: int, patients: Mapping[str, int], waits: Sequence[Wait], silence: Mapping[Channel, str]
) -> Iterator[str]:
    """What is left of a campaign that is completed or cancelled."""
    if patients["unreached"]:
        yield (
            f"Reach those who were not told ({patients['unreached']:,}) by letter or call: "
            f"notifier patients list {number} --outcome unreached"
        )
    if on_the_way := patients["on_the_way"]:
        until = _waited_for(waits, silence) or "their outcome is settled within minutes"
        yield f"{'And wait' if patients['unreached'] else 'Wait'} for {on_the_way:,} on the way: {until}."
    elif not patients["unreached"]:
        yield "Nothing: every patient has an outcome."


def _waited_for(waits: Sequence[Wait], silence: Mapping[Channel, str]) -> str:
    """“120 emails were accepted; they count as informed when no failure comes back by 2026-11-28 09:12 UTC”."""
    return "; ".join(_wait_in_words(wait, silence) for wait in waits)


def _wait_in_words(wait: Wait, silence: Mapping[Channel, str]) -> str:
    one = wait.count == 1
    named = {Channel.EMAIL: "email" if one else "emails", Channel.SMS: "SMS"}[wait.channel]
    what, was, they = f"{wait.count:,} {named}", "was" if one else "were", "it" if one else "they"
    match wait.state:
        case DeliveryState.PENDING:
            return f"{what} {'waits' if one else 'wait'} for the next try, the first at {_minute(wait.first)}"
        case DeliveryState.UNKNOWN:
            return f"{what} may have gone out: what comes next is decided by {_minute(wait.last)}"
    if silence[wait.channel] == "informed":
        counts = f"{they} {'counts' if one else 'count'} as informed when no failure comes back"
    else:
        counts = f"{they} {'counts' if one else 'count'} as failed when no receipt comes"
    first = f" (the first by {_minute(wait.first)})" if _minute(wait.first) != _minute(wait.last) else ""
    return f"{what} {was} accepted; {counts} by {_minute(wait.last)}{first}"


def _minute(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


def _head(campaign: Campaign, doctor: Doctor, incident: Incident) -> dict[str, Any]:
    return {
        "id": campaign.id,
        "incident": incident.reference,
        "doctor": doctor.reference,
        "doctor_name": doctor.name,
        **common.columns_of(campaign, "state", "reason", "started_at", "completed_at"),
    }


def _preview(draft: Draft, name: str, language: str | None, variant: Variant | None) -> dict[str, Any]:
    wanted = dict.fromkeys(
        (notice.language, notice.variant)
        for notice in draft.composed.notices
        if language in (None, notice.language) and variant in (None, notice.variant)
    )
    if not wanted:
        raise InputError(
            f"No patient of campaign {draft.campaign.id} needs a notice in {language or 'any language'}"
            + (f", variant {variant}." if variant else ".")
        )
    approved = draft.campaign.notice_hash
    return {
        "campaign": draft.campaign.id,
        "state": draft.campaign.state,
        "hash": draft.hash,
        "approved_hash": approved.hex() if approved else None,
        "missing": [_gap(gap) for gap in draft.composed.missing],
        "warnings": [_gap(gap) for gap in draft.composed.warnings],
        "previews": [asdict(text) for key in wanted for text in draft.preview(name, *key)],
    }


def _gap(gap: Gap) -> dict[str, Any]:
    names = ("part", "channel", "language", "variant", "problem")
    return common.columns_of(gap, *names) | {"words": gap.words.get("en", gap.part)}


def _show(document: Mapping[str, Any], as_json: bool) -> None:
    def show(out: Console) -> None:
        nested = ("lists", "patients", "unreached", "deliveries", "next")
        out.print(common.facts("campaign", {name: document[name] for name in document if name not in nested}))
        out.print(Text(_rows(document)), soft_wrap=True)
        out.print(_people(document))
        for channel, states in document["deliveries"].items():
            if counts := {state: count for state, count in states.items() if count}:
                out.print(Text(f"{channel}: {common.in_words(counts)}"))
        out.print(Text(f"Next: {document['next']}"), soft_wrap=True)

    common.emit(document, as_json, show)


def _rows(document: Mapping[str, Any]) -> str:
    lists, imported = document["lists"], document["patients"]["imported"]
    said = f"Rows of the lists: {lists['rows']:,} = {imported:,} imported + {lists['refused']:,} refused"
    return f"{said}; see them: notifier patients problems {document['id']}" if lists["refused"] else said


def _people(document: Mapping[str, Any]) -> Any:
    patients = dict(document["patients"])
    if document["unreached"]:
        patients["of the unreached"] = document["unreached"]
    return common.facts("patients", patients)


def _look(database: store.Database, campaign: int, settings: Settings) -> dict[str, Any]:
    with common.transaction(database) as session:
        return report(session, campaign, settings)


def _picture(document: Mapping[str, Any]) -> Group:
    patients = document["patients"]
    settled = patients["imported"] - patients["on_the_way"]
    title = f"Campaign {document['id']} ({document['doctor_name']}): {document['state']}"
    return Group(
        Text(title, style="bold"),
        ProgressBar(total=max(patients["imported"], 1), completed=settled, width=60),
        _people(document),
        Text(document["next"]),
    )
