"""`notifier evidence …`: the proof file of a campaign, and the check that one holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from sqlalchemy import select

from notifier import evidence, telling
from notifier.cli import common
from notifier.cli.campaign import CampaignId
from notifier.errors import InputError
from notifier.models import Journal

app = typer.Typer(no_args_is_help=True, help="Write the file that proves who was told, and check one.")

Language = Annotated[str, typer.Option(help="fr or en.")]
Out = Annotated[Path, typer.Option("--out", help="Where to write it; it names people: keep it as such.")]


def _language(value: str) -> str:
    if value not in evidence.LANGUAGES:
        raise typer.BadParameter(f"one of {', '.join(evidence.LANGUAGES)}")
    return value


@app.command()
def export(campaign_id: CampaignId, out: Out, language: Language = "fr", as_json: common.Json = False) -> None:
    """Write the proof file of a campaign: a ZIP with tables, texts, acts, a page to print and a manifest."""
    language = _language(language)
    with common.database() as (database, settings):
        try:
            proof = evidence.export(
                database,
                settings,
                campaign_id,
                out,
                language=language,
                doctor_id=None,
                actor=common.actor(),
                now=common.now(),
            )
        except OSError as error:
            raise InputError(f"{out} cannot be written: {error.strerror}.") from error
    counts = dict(proof.counts)
    document = {"file": str(out), "manifest": proof.manifest, "counts": counts, "files": proof.files}
    shown = counts | {"manifest": proof.manifest}
    common.emit(document, as_json, lambda console: console.print(common.facts(str(out), shown)))


@app.command()
def verify(
    file: Annotated[Path, typer.Argument(help="The proof file.")],
    manifest: Annotated[
        str | None,
        typer.Option(help="The manifest's hash that was noted when it was written: it must be the same."),
    ] = None,
    journal: Annotated[
        bool, typer.Option("--journal", help="Also look for its hash in this database's journal.")
    ] = False,
    as_json: common.Json = False,
) -> None:
    """Check a proof file: nothing changed, counts that add up, texts that were approved. Needs no database."""
    try:
        found = evidence.verify(file)
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}.") from error
    problems = list(found.problems)
    if manifest is not None and manifest.lower() != found.manifest:
        problems.append(f"Its manifest's hash is {found.manifest}, not the one given.")
    if journal:
        written = select(Journal.at).where(
            Journal.action == "evidence.export", Journal.detail["manifest"].astext == found.manifest
        )
        with common.work() as work:
            if work.session.scalar(written) is None:
                problems.append("The journal of this database knows no such file.")
    if problems:
        common.fail(f"{file} does not hold: {' '.join(problems)}", as_json, problems=problems)
    document = {"file": str(file), "manifest": found.manifest, "counts": dict(found.counts), "problems": []}
    common.emit(
        document, as_json, lambda console: console.print(f"{file} holds. Manifest {found.manifest}."),
    )  # fmt: skip


@app.command()
def letters(campaign_id: CampaignId, out: Out, language: Language = "fr", as_json: common.Json = False) -> None:
    """Write a CSV for a mail merge: those unreached whose postal address is known."""
    _list(telling.letters, campaign_id, out, _language(language), as_json)


@app.command()
def calls(campaign_id: CampaignId, out: Out, language: Language = "fr", as_json: common.Json = False) -> None:
    """Write a CSV of those unreached who have a number to call."""
    _list(telling.calls, campaign_id, out, _language(language), as_json)


def _list(make: telling.Making, campaign_id: int, out: Path, language: str, as_json: bool) -> None:
    with common.work() as work:
        try:
            people = telling.write(make(work.session, work.settings.master, campaign_id, language), out)
        except OSError as error:
            raise InputError(f"{out} cannot be written: {error.strerror}.") from error
    common.emit(
        {"file": str(out), "people": people}, as_json, lambda console: console.print(f"{people} people in {out}")
    )
