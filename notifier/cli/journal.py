"""`notifier journal …`: what people did, and a check that it still says what it said."""

from __future__ import annotations

from typing import Annotated

import typer
from sqlalchemy import exists, func, select

from notifier import store
from notifier.cli import common
from notifier.models import Journal

app = typer.Typer(no_args_is_help=True, help="See who did what, and check that it was not changed since.")


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


def _hash(value: str) -> bytes:
    try:
        return bytes.fromhex(value)
    except ValueError as error:
        raise typer.BadParameter("64 hexadecimal digits, as `notifier journal verify` prints them") from error


@app.command()
def verify(
    kept: Annotated[
        bytes | None,
        typer.Option(parser=_hash, metavar="HASH", help="A newest hash printed before: it must still be there."),
    ] = None,
    as_json: common.Json = False,
) -> None:
    """Check the chain of hashes over the whole journal; exit code 1 if it does not hold.

    Finds entries that were changed, or taken out before others. It cannot find that the newest were taken out, or
    that the whole was written anew: for that, keep the number of entries and the newest hash outside this
    database, and give the hash back later with --kept.
    """
    with common.work() as work:
        entries = work.session.scalar(select(func.count()).select_from(Journal))
        newest = work.session.scalar(select(Journal.hash).order_by(Journal.id.desc()).limit(1))
        gone = kept is not None and not work.session.scalar(select(exists().where(Journal.hash == kept)))
        broken = store.broken_journal_entries(work.session)
    shown_hash = newest.hex() if newest else None
    if broken:
        shown = ", ".join(str(number) for number in broken[:10])
        message = f"The journal was changed: {len(broken)} of {entries} entries do not hold (first: {shown})."
        common.fail(message, as_json, ok=False, entries=entries, newest_hash=shown_hash, broken=broken)
    if gone:
        message = (
            "No entry has the hash given with --kept: entries were taken out, or the journal was written anew."
        )
        common.fail(message, as_json, ok=False, entries=entries, newest_hash=shown_hash, broken=[])
    common.emit(
        {"ok": True, "entries": entries, "newest_hash": shown_hash, "broken": []},
        as_json,
        lambda out: out.print(
            f"The chain holds: {entries} entries, the newest with hash {shown_hash}. Keep both elsewhere.",
            soft_wrap=True,
            highlight=False,
        ),
    )
