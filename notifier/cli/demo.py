"""`notifier demo`: a made-up incident from lists to outcomes on this machine, judged by the servers' own count."""

from __future__ import annotations

import getpass
import json
import os
import secrets
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from notifier.errors import NotifierError, ServiceError

#: 72 hours of silence become 18 seconds
TIME_SCALE = 14_400
#: longest demo: what has no outcome by then is reported as such
PATIENCE_S = 900
#: the rehearsal's inbox asks for none
_RELAY_ACCOUNT = ("NOTIFIER_SMTP__USERNAME", "NOTIFIER_SMTP__PASSWORD")


@dataclass(frozen=True, slots=True)
class Stage:
    """What a demo runs on."""

    data_dir: Path
    environment: dict[str, str]
    page_url: str
    api_url: str


def demo(
    once: Annotated[bool, typer.Option("--once", help="End when every patient has an outcome.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line.")] = False,
    doctors: Annotated[int, typer.Option(min=1, help="Responsible doctors.")] = 3,
    patients: Annotated[int, typer.Option(min=1, help="Rows over all lists.")] = 3000,
    seed: Annotated[int, typer.Option(help="The same seed makes the same people and faults.")] = 1,
    faults: Annotated[str, typer.Option(help="none, usual or harsh.")] = "usual",
) -> None:
    """Rehearse a made-up incident: real servers and workers, simulated receivers. Nothing leaves this machine."""
    from notifier.rehearsal.faults import preset

    with _plain_errors(as_json):
        preset(faults)
        if patients < doctors:
            raise NotifierError(f"--patients must be at least --doctors ({doctors}): each doctor has one.")
        with ExitStack() as stack:
            stage = stack.enter_context(_stage(seed, faults))
            result = run(stage, doctors=doctors, patients=patients, seed=seed, faults=faults, stack=stack)
            _show(result, stage, once)
            if as_json:
                print(json.dumps(result), flush=True)
            if not once:
                _stay()


def run(
    stage: Stage,
    *,
    doctors: int,
    patients: int,
    seed: int,
    faults: str,
    stack: ExitStack,
    look: Callable[[Any, Any], None] | None = None,
) -> dict[str, Any]:
    """The whole journey on a stage whose servers are up; returns the report.

    `look` is called at every look at the progress, with the database and the supervisor.
    """
    from notifier import settings, store
    from notifier.cli.supervise import Supervisor, engine
    from notifier.rehearsal import incidents
    from notifier.rehearsal.faults import preset

    started = time.monotonic()
    folder = stage.data_dir / "incident"
    truth = incidents.make_incident(seed, doctors, patients, folder, preset(faults))
    with _environment(stage.environment):
        current = settings.load()
    store.migrate(current.sqlalchemy_url)
    database = store.Database(current.sqlalchemy_url)
    database.check()
    campaigns = _prepare(database, current, folder)
    supervisor = Supervisor(stage.environment, stage.data_dir / "log")
    engine(supervisor)
    stack.enter_context(supervisor)
    _start_all(database, list(campaigns.values()))
    _watch(database, campaigns, lambda: look(database, supervisor) if look else None)
    report = _report(database, campaigns, truth, stage)
    report["seconds"] = round(time.monotonic() - started, 1)
    return report


@contextmanager
def _stage(seed: int, faults: str) -> Iterator[Stage]:
    """PostgreSQL, Valkey, inbox and SMS simulator in a fresh folder, and the settings that point to them."""
    from notifier.rehearsal import main as rehearsal
    from notifier.rehearsal import servers

    base = Path(os.environ.get("NOTIFIER_DATA_DIR", "var"))
    folder = (base / "demo").resolve()
    rehearsal.stop(folder)
    servers.stop_all(folder)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        here = rehearsal.start(folder, faults=faults, seed=seed)
        urls = _urls(folder)
        api_port = servers.free_port()
        environment = (
            # what a person may want otherwise …
            {
                "NOTIFIER_MASTER_KEY": secrets.token_hex(32),
                "NOTIFIER_TIME_SCALE": str(TIME_SCALE),
                "NOTIFIER_SMTP__TIMEOUT_S": "3",
                "NOTIFIER_SMTP__RATE_PER_S": "1000",
                "NOTIFIER_BREVO_SMS__TIMEOUT_S": "2",
                "NOTIFIER_BREVO_SMS__RATE_PER_S": "500",
                "NOTIFIER_ENGINE__LEASE_S": "15",
                "NOTIFIER_ENGINE__SWEEPER_MS": "500",
                # Its made-up addresses may be refused as often as was asked for.
                "NOTIFIER_ENGINE__BOUNCE_LIMIT": "1",
            }
            | {name: value for name, value in os.environ.items() if name not in _RELAY_ACCOUNT}
            # … and what makes it a rehearsal: whatever relay is set, nothing leaves this machine
            | urls
            | {
                "NOTIFIER_DATA_DIR": str(folder),
                "NOTIFIER_API_PORT": str(api_port),
                "NOTIFIER_PUBLIC_URL": f"http://127.0.0.1:{api_port}",
                "NOTIFIER_SMTP__HOST": here.smtp_host,
                "NOTIFIER_SMTP__PORT": str(here.smtp_port),
                "NOTIFIER_SMTP__SECURITY": "none",
                "NOTIFIER_BREVO_SMS__BASE_URL": here.brevo_url,
                "NOTIFIER_BREVO_SMS__API_KEY": here.api_key,
            }
        )
        yield Stage(folder, environment, here.page_url, f"http://127.0.0.1:{api_port}")
    finally:
        rehearsal.stop(folder)
        servers.stop_all(folder)


def _urls(folder: Path) -> dict[str, str]:
    """Embedded servers, unless the environment names others."""
    from notifier.rehearsal.servers import Postgres, Valkey

    database_url = os.environ.get("DATABASE_URL") or Postgres(folder).start()
    redis_url = os.environ.get("REDIS_URL") or Valkey(folder).start()
    return {"DATABASE_URL": database_url, "REDIS_URL": redis_url}


def _prepare(database: Any, current: Any, folder: Path) -> dict[str, int]:
    """Opens the incident and brings each doctor's campaign to `approved`; returns campaigns by doctor."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from notifier import acts, controlling
    from notifier.models import Doctor

    actor = f"cli:{getpass.getuser()}"
    facts = json.loads((folder / "incident.json").read_text(encoding="utf-8"))["facts"]
    doctors = json.loads((folder / "doctors.json").read_text(encoding="utf-8"))
    with database.staff() as session:
        reference = f"demo-{datetime.now(UTC):%Y%m%d-%H%M%S}"
        incident = acts.create_incident(session, current, reference, "eu-gdpr-fr", facts, actor=actor)
    campaigns: dict[str, int] = {}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=_console()) as progress:
        task = progress.add_task("Reading the doctors' lists", total=len(doctors))
        for values in doctors:
            with database.staff() as session:
                known = session.query(Doctor).filter_by(reference=values["reference"]).first()
                doctor = known or acts.create_doctor(session, actor=actor, **values)
                campaign = controlling.create(session, current.master, incident.id, doctor.id, actor=actor)
                path = folder / f"list-{values['reference']}.csv"
                acts.import_list(session, current, campaign.id, path, actor=actor, now=datetime.now(UTC))
            with database.staff() as session:
                shown = acts.draft(session, current, campaign.id)
                acts.approve(
                    session, current, campaign.id, expected_hash=shown.hash, actor=actor, now=datetime.now(UTC)
                )
            campaigns[values["reference"]] = campaign.id
            progress.advance(task)
    return campaigns


def _start_all(database: Any, campaigns: list[int]) -> None:
    from notifier import acts

    for campaign_id in campaigns:
        with database.staff() as session:
            acts.start(session, campaign_id, actor=f"cli:{getpass.getuser()}", now=datetime.now(UTC))


def _watch(database: Any, campaigns: dict[str, int], look: Callable[[], None]) -> None:
    """Shows progress until every patient has an outcome and every campaign is completed."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from notifier import store
    from notifier.models import Campaign

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,}/{task.total:,} with an outcome · {task.fields[numbers]}"),
        TimeElapsedColumn(),
    )
    deadline = time.monotonic() + PATIENCE_S
    with Progress(*columns, console=_console()) as progress:
        tasks = {
            campaign_id: progress.add_task(f"Campaign {campaign_id}", total=0, numbers="")
            for campaign_id in campaigns.values()
        }
        while time.monotonic() < deadline:
            done = True
            look()
            with database.staff() as session:
                for campaign_id, task in tasks.items():
                    counts = store.outcome_counts(session, campaign_id)
                    numbers = (
                        f"{counts['informed']:,} informed, {counts['on_the_way']:,} on the way, "
                        f"{counts['unreached']:,} unreached"
                    )
                    total = counts["imported"]
                    progress.update(task, total=total, completed=total - counts["on_the_way"], numbers=numbers)
                    done = done and session.get_one(Campaign, campaign_id).state == "completed"
            if done:
                return
            time.sleep(0.5)  # nothing tells us sooner; a person reads the screen


def _report(database: Any, campaigns: dict[str, int], truth: Any, stage: Stage) -> dict[str, Any]:
    """Our numbers, and the servers' own count held against the truth file."""
    from sqlalchemy import text

    from notifier import store
    from notifier.rehearsal import judging
    from notifier.rehearsal import main as rehearsal
    from notifier.states import Channel, Delivery

    totals = dict.fromkeys(("imported", "excluded", "merged", "informed", "on_the_way", "unreached"), 0)
    deliveries = {str(channel): {str(state): 0 for state in Delivery} for channel in Channel}
    outcomes: list[dict[str, Any]] = []
    with database.staff() as session:
        for reference, campaign_id in campaigns.items():
            for name, number in store.outcome_counts(session, campaign_id).items():
                totals[name] += number
            for channel, states in store.delivery_counts(session, campaign_id).items():
                for state, number in states.items():
                    deliveries[channel][state] += number
            rows = session.execute(
                text("SELECT row, outcome, outcome_reason FROM patient WHERE campaign_id = :id"),
                {"id": campaign_id},
            )
            outcomes += [
                {"doctor": reference, "row": row.row, "outcome": row.outcome, "reason": row.outcome_reason}
                for row in rows
            ]
        possibly_twice = session.scalar(
            text("SELECT count(*) FROM delivery WHERE possibly_twice AND campaign_id = ANY(:ids)"),
            {"ids": list(campaigns.values())},
        )
    here = rehearsal.announced(stage.data_dir)
    if here is None:
        raise ServiceError("The rehearsal servers ended before they could be asked what they received.")
    verdict = judging.judge(truth, rehearsal.fetch_messages(here), outcomes)

    imported = totals.pop("imported")
    return {
        "patients": imported,
        **totals,
        "deliveries": deliveries,
        "received": verdict["received"],
        "duplicates": verdict["duplicates"],
        "possibly_twice": possibly_twice,
        "lost": verdict["lost"],
        "wrong_person": verdict["wrong_person"],
        "missed": verdict["missed"],
    }


def _show(result: dict[str, Any], stage: Stage, once: bool) -> None:
    from rich.table import Table

    console = _console()
    table = Table(title="Every patient is in exactly one place", show_header=False, title_justify="left")
    table.add_column()
    table.add_column(justify="right")
    for name in ("patients", "excluded", "merged", "informed", "on_the_way", "unreached"):
        table.add_row(name.replace("_", " "), f"{result[name]:,}")
    console.print(table)
    received = result["received"]
    console.print(
        f"The servers' own count: {received['email']:,} emails, {received['sms']:,} SMS; "
        f"{result['duplicates']} came twice ({result['possibly_twice']} declared as possible), "
        f"{result['wrong_person']} at a wrong person, {result['lost']} lost. {result['seconds']} s."
    )
    if not once:
        console.print(f"What the receivers got: [bold]{stage.page_url}[/bold]")
        console.print(f"The API: [bold]{stage.api_url}/api/v1[/bold]  (described at {stage.api_url}/openapi.json)")
        console.print("An operations key for it: [bold]" + _new_key(stage) + "[/bold]")
        for role, link in _invitations(stage).items():
            console.print(f"The pages as {role}, with an authenticator app (the link serves once):")
            console.print(link, markup=False, highlight=False, soft_wrap=True)
        console.print("Ctrl-C ends everything.")


def _new_key(stage: Stage) -> str:
    from notifier import settings, store
    from notifier.api.auth import make_key

    with _environment(stage.environment):
        current = settings.load()
    with store.Database(current.sqlalchemy_url, pool_size=1).staff() as session:
        _, secret = make_key(session, "demo", None)
    return secret


def _invitations(stage: Stage) -> dict[str, str]:
    """A way in to the pages for a doctor and for an operator."""
    from notifier import accounts, settings, store
    from notifier.models import Doctor

    with _environment(stage.environment):
        current = settings.load()
    now, found = datetime.now(UTC), {}
    with store.Database(current.sqlalchemy_url, pool_size=1).staff() as session:
        first = session.query(Doctor).order_by(Doctor.id).first()
        for role, doctor in ((accounts.Role.DOCTOR, first), (accounts.Role.OPERATOR, None)):
            if role in accounts.DOCTORS and doctor is None:
                continue
            account = accounts.create(
                session,
                current.master,
                role=role,
                email=f"{role}@example.org",
                language="fr" if doctor else "en",
                doctor_id=doctor.id if doctor else None,
                actor="cli:demo",
            )
            token = accounts.invitation_link(session, account.id, actor="cli:demo", now=now, web=current.web)
            found[str(role)] = f"{stage.api_url}/link/{token}"
    return found


def _stay() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    signal.pause()


def _console() -> Any:
    from rich.console import Console

    # Standard output is for the JSON line alone.
    return Console(stderr=True)


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _plain_errors(as_json: bool) -> Iterator[None]:
    try:
        yield
    except NotifierError as error:
        print(error.message, file=sys.stderr)
        if as_json:
            print(json.dumps({"error": error.message}))
        raise typer.Exit(1) from error
