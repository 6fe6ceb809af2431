"""`notifier doctor …`: the responsible doctors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from sqlalchemy.orm import Session

from notifier import acts
from notifier.cli import common
from notifier.errors import InputError
from notifier.models import Doctor

app = typer.Typer(no_args_is_help=True, help="Add the responsible doctors, one by one or from a file.")

FIELDS = ("reference", "name", "practice", "address", "phone", "email")


@app.command()
def create(
    reference: Annotated[str, typer.Option(help="RPPS number or the software house's own id.")],
    name: Annotated[str, typer.Option(help="As it signs the notice: Dr Claire Martin.")],
    practice: Annotated[str, typer.Option(help="The practice's name.")],
    address: Annotated[str, typer.Option(help="The practice's postal address.")],
    phone: Annotated[str, typer.Option(help="The practice's number, which patients know.")],
    email: Annotated[str, typer.Option(help="The practice's address.")],
    as_json: common.Json = False,
) -> None:
    """Add one doctor."""
    with common.work() as work:
        made = acts.create_doctor(
            work.session,
            actor=work.actor,
            reference=reference,
            name=name,
            practice=practice,
            address=address,
            phone=phone,
            email=email,
        )
    _show(made, as_json)


@app.command(name="import")
def import_(
    file: Annotated[Path, typer.Argument(help="A JSON list of doctors; - reads standard input.")],
    as_json: common.Json = False,
) -> None:
    """Add many doctors, all or none. Doctors who are there with the same values stay as they are.

    Each is an object with reference, name, practice, address, phone and email.
    """
    entries = _entries(common.read_json(file))
    with common.work() as work:
        made = [doctor for entry in entries if (doctor := _add(work.session, entry, work.actor))]
    rows = [common.columns_of(doctor, "id", *FIELDS) for doctor in made]
    unchanged = len(entries) - len(made)

    def show(out: Any) -> None:
        out.print(f"{len(made)} doctors added, {unchanged} were there already.")

    common.emit({"added": rows, "unchanged": unchanged}, as_json, show)


@app.command(name="list")
def list_(as_json: common.Json = False) -> None:
    """List all doctors."""
    with common.work() as work:
        found = work.session.query(Doctor).order_by(Doctor.id).all()
    rows = [common.columns_of(doctor, "id", *FIELDS) for doctor in found]
    common.emit_list("doctors", rows, as_json, ["id", "reference", "name", "practice", "phone"])


@app.command()
def show(
    doctor: Annotated[str, typer.Argument(metavar="DOCTOR", help="Reference or number.")],
    as_json: common.Json = False,
) -> None:
    """Show one doctor."""
    with common.work() as work:
        found = common.find(work.session, Doctor, doctor)
    _show(found, as_json)


def _entries(values: Any) -> list[dict[str, str]]:
    """Raises InputError naming the entry, counted from 1, and what is wrong with it."""
    if not isinstance(values, list):
        raise InputError("The file must hold a JSON list of doctors: [{…}, …].")
    for number, entry in enumerate(values, start=1):
        if not isinstance(entry, dict) or set(entry) != set(FIELDS):
            raise InputError(f"Entry {number}: a doctor is an object with exactly {', '.join(FIELDS)}.")
        if wrong := [name for name in FIELDS if not isinstance(entry[name], str) or not entry[name].strip()]:
            raise InputError(f"Entry {number}: {', '.join(wrong)} must be text that is not empty.")
    return values


def _add(session: Session, entry: dict[str, str], actor: str) -> Doctor | None:
    values = {name: value.strip() for name, value in entry.items()}
    if session.query(Doctor).filter_by(**values).first() is not None:
        return None
    return acts.create_doctor(session, actor=actor, **values)


def _show(doctor: Doctor, as_json: bool) -> None:
    document = common.columns_of(doctor, "id", *FIELDS, "created_at")
    common.emit(document, as_json, lambda out: out.print(common.facts("doctor", document)))
