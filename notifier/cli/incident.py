"""`notifier incident …`: one breach and its facts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from notifier import acts
from notifier.cli import common
from notifier.errors import InputError
from notifier.models import Campaign, Incident

app = typer.Typer(no_args_is_help=True, help="Open an incident, look at it, change its facts.")

PROFILE = "eu-gdpr-fr"
_Incident = Annotated[str, typer.Argument(metavar="INCIDENT", help="Its reference or number.")]


@app.command()
def create(
    file: Annotated[Path, typer.Argument(help="JSON with the facts; - reads standard input.")],
    reference: Annotated[str | None, typer.Option(help="A short name of your own; may stand in the file.")] = None,
    profile: Annotated[str | None, typer.Option(help=f"The legal profile; {PROFILE} if none is named.")] = None,
    as_json: common.Json = False,
) -> None:
    """Open an incident.

    The file holds the facts, or an object {"reference", "profile", "facts"}; options win over the file.
    """
    values = _object(common.read_json(file))
    wrapper = values if "facts" in values else {"facts": values}
    if unknown := sorted(set(wrapper) - {"reference", "profile", "facts"}):
        raise InputError(f"Beside facts, only reference and profile are known, not: {', '.join(unknown)}.")
    reference = reference or str(wrapper.get("reference") or "")
    if not reference:
        raise InputError("The incident needs a reference: --reference, or in the file.")
    with common.work() as work:
        made = acts.create_incident(
            work.session,
            work.settings,
            reference,
            profile or str(wrapper.get("profile") or PROFILE),
            _object(wrapper["facts"]),
            actor=work.actor,
        )
    _show(made, as_json)


@app.command(name="list")
def list_(as_json: common.Json = False) -> None:
    """List all incidents."""
    with common.work() as work:
        found = work.session.query(Incident).order_by(Incident.id).all()
    rows = [common.columns_of(incident, "id", "reference", "profile", "created_at") for incident in found]
    common.emit_list("incidents", rows, as_json, ["id", "reference", "profile", "created_at"])


@app.command()
def show(incident: _Incident, as_json: common.Json = False) -> None:
    """Show one incident with its facts and its campaigns."""
    with common.work() as work:
        found = common.find(work.session, Incident, incident)
        campaigns = work.session.query(Campaign).filter_by(incident_id=found.id).order_by(Campaign.id).all()
    _show(found, as_json, [common.columns_of(campaign, "id", "doctor_id", "state") for campaign in campaigns])


@app.command()
def facts(
    incident: _Incident,
    file: Annotated[Path, typer.Argument(help="JSON with all the facts; - reads standard input.")],
    as_json: common.Json = False,
) -> None:
    """Replace the facts. Every campaign that is approved but not started must be approved again."""
    values = _object(common.read_json(file))
    with common.work() as work:
        found = common.find(work.session, Incident, incident)
        changed = acts.change_facts(work.session, found.id, values, actor=work.actor)
    _show(changed, as_json)


def _show(incident: Incident, as_json: bool, campaigns: list[dict[str, Any]] | None = None) -> None:
    head = common.columns_of(incident, "id", "reference", "profile", "created_at")
    document = head | {"facts": incident.facts}
    if campaigns is not None:
        document["campaigns"] = campaigns

    def show(out: Console) -> None:
        out.print(common.facts("incident", head))
        readable = json.dumps(incident.facts, indent=2, ensure_ascii=False)
        out.print(readable, markup=False, highlight=False, soft_wrap=True)
        if campaigns is not None:
            out.print(common.table(f"campaigns ({len(campaigns)})", ["id", "doctor_id", "state"], campaigns))

    common.emit(document, as_json, show)


def _object(values: Any) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise InputError("A JSON object is needed here: {…}.")
    return values
