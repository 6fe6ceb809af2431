"""`notifier key …`: keys for the API. A key's secret is shown once, when it is made, and kept nowhere."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.console import Console
from sqlalchemy import select

from notifier.cli import common
from notifier.models import ApiKey, Doctor

app = typer.Typer(no_args_is_help=True, help="Make and revoke keys for the API.")


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Who or what uses it.")],
    doctor: Annotated[
        str | None, typer.Option(help="Only this doctor's rows: reference or number. Without it: operations.")
    ] = None,
    as_json: common.Json = False,
) -> None:
    """Make a key and show its secret, this once."""
    # Imported here: it brings the whole of the API along.
    from notifier.api import auth

    with common.work() as work:
        owner = common.find(work.session, Doctor, doctor) if doctor is not None else None
        made, secret = auth.make_key(work.session, name, owner.id if owner else None, actor=work.actor)
    document = _entry(made, owner) | {"secret": secret}

    def show(out: Console) -> None:
        out.print(common.facts("key", document))
        out.print("Keep the secret now: it is not stored and cannot be shown again.")

    common.emit(document, as_json, show)


@app.command(name="list")
def list_(as_json: common.Json = False) -> None:
    """List all keys, without their secrets."""
    with common.work() as work:
        query = select(ApiKey, Doctor).outerjoin(Doctor, Doctor.id == ApiKey.doctor_id).order_by(ApiKey.id)
        rows = [_entry(key, doctor) for key, doctor in work.session.execute(query)]
    columns = ["id", "name", "prefix", "scope", "doctor", "created_at", "revoked_at"]
    common.emit_list("keys", rows, as_json, columns)


@app.command()
def revoke(
    key: Annotated[int, typer.Argument(metavar="KEY", help="The key's number.", min=1)],
    as_json: common.Json = False,
) -> None:
    """Refuse a key from now on."""
    from notifier.api import auth

    with common.work() as work:
        revoked = auth.revoke_key(work.session, key, actor=work.actor, now=work.now)
        owner = work.session.get(Doctor, revoked.doctor_id) if revoked.doctor_id is not None else None
    document = _entry(revoked, owner)
    common.emit(document, as_json, lambda out: out.print(f"Key {key} is revoked."))


def _entry(key: ApiKey, doctor: Doctor | None) -> dict[str, Any]:
    return {
        **common.columns_of(key, "id", "name", "prefix"),
        "scope": "operations" if doctor is None else "doctor",
        "doctor": doctor.reference if doctor else None,
        **common.columns_of(key, "created_at", "revoked_at"),
    }
