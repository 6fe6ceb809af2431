"""`notifier journal …`: what people did, and the proof that nothing was changed since."""

from __future__ import annotations

from typing import Annotated

import typer
from sqlalchemy import func, select

from notifier import store
from notifier.cli import common
from notifier.models import Journal

app = typer.Typer(no_args_is_help=True, help="See who did what, and prove that nothing was changed since.")


@app.command(name="list")
def list_(
    before: Annotated[int | None, typer.Option(min=1, help="Only those before this id: how to read on.")] = None,
    subject: Annotated[str | None, typer.Option(help="Only about this: campaign:5, provider:smtp.")] = None,
    limit: common.Limit = 200,
    as_json: common.Json = False,
) -> None:
    """List acts, the newest first."""
    with common.work() as work:
        query = select(Journal)
        if before is not None:
            query = query.where(Journal.id < before)
        if subject is not None:
            query = query.where(Journal.subject == subject)
        found = work.session.scalars(query.order_by(Journal.id.desc()).limit(limit + 1)).all()
    names = ("id", "at", "actor", "action", "subject", "detail")
    rows = [common.columns_of(entry, *names, "doctor_id") for entry in found[:limit]]
    last = rows[-1]["id"] if len(found) > limit else None
    only = f" --subject {subject}" if subject else ""
    common.emit_list(
        "entries",
        rows,
        as_json,
        names,
        next=last,
        read_on=f"notifier journal list{only} --before {last}" if last else "",
    )


@app.command()
def verify(as_json: common.Json = False) -> None:
    """Check the chain of hashes over the whole journal; exit code 1 if it does not hold."""
    with common.work() as work:
        entries = work.session.scalar(select(func.count()).select_from(Journal))
        broken = store.broken_journal_entries(work.session)
    if broken:
        shown = ", ".join(str(number) for number in broken[:10])
        message = f"The journal was changed: {len(broken)} of {entries} entries do not hold (first: {shown})."
        common.fail(message, as_json, ok=False, entries=entries, broken=broken)
    common.emit(
        {"ok": True, "entries": entries, "broken": []},
        as_json,
        lambda out: out.print(f"The journal is whole: {entries} entries."),
    )
