"""Made-up doctors, incidents and lists, through the real steps."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime
from pathlib import Path

from notifier import acts, controlling, settings, testsends
from notifier.models import Campaign, ListFile
from notifier.settings import Settings
from notifier.store import Database

FACTS = json.loads((Path(__file__).parent / "notifier" / "facts.json").read_text(encoding="utf-8"))
NOW = datetime(2026, 11, 25, 9, 0, tzinfo=UTC)
HEADER = "id;nom;prenom;date de naissance;email;portable;adresse;code postal;ville;langue;decede"


def make_settings(database_url: str, redis_url: str = "redis://127.0.0.1:1/0", **changes: object) -> Settings:
    from tests.conftest import MASTER_KEY

    values = {"database_url": database_url, "redis_url": redis_url, "master_key": MASTER_KEY, "time_scale": 50_000}
    return settings.load(**(values | changes))


def make_doctor(session, number: int = 1, **changes: str):
    values = {
        "reference": f"1000000000{number}",
        "name": f"Dr Camille Exemple{number}",
        "practice": f"Cabinet Exemple {number}",
        "address": "1 rue de l'Exemple, 75001 Paris",
        "phone": "01 99 00 12 34",
        "email": f"cabinet{number}@example.org",
    }
    return acts.create_doctor(session, actor="cli:test", **(values | changes))


def person(number: int, *, email: str | None = "", phone: str | None = "", **changes: str) -> str:
    """One line of a list; an empty email or phone is made up, None leaves the cell empty."""
    cells = {
        "id": f"P{number:05}",
        "nom": f"Nom{number}",
        "prenom": f"Prenom{number}",
        "naissance": "12/03/1975",
        "email": f"patient{number}@example.org" if email == "" else email or "",
        "portable": f"06 39 98 {number // 100:02} {number % 100:02}" if phone == "" else phone or "",
        "adresse": "2 rue des Lilas",
        "cp": "75002",
        "ville": "Paris",
        "langue": "fr",
        "decede": "",
    }
    return ";".join((cells | changes).values())


def make_campaign(database: Database, current: Settings, lines: list[str], number: int = 1) -> int:
    """A draft campaign of doctor `number` with these patients imported."""
    with database.staff() as session:
        doctor = make_doctor(session, number)
        incident = session.query(acts.Incident).first() or acts.create_incident(
            session, current, "incident-1", "eu-gdpr-fr", FACTS, actor="cli:test"
        )
        campaign = controlling.create(session, current.master, incident.id, doctor.id, actor="cli:test")
        data = "\n".join([HEADER, *lines, ""]).encode()
        acts.import_list(session, current, campaign.id, io.BytesIO(data), actor="cli:test", now=NOW)
        return campaign.id


def import_more(
    database: Database,
    current: Settings,
    campaign_id: int,
    lines: list[str],
    header: str = HEADER,
    **options: object,
) -> ListFile:
    """A further list of a campaign, in whatever state it is."""
    data = "\n".join([header, *lines, ""]).encode()
    with database.staff() as session:
        values = {"actor": "cli:test", "now": datetime.now(UTC)} | options
        return acts.import_list(session, current, campaign_id, io.BytesIO(data), **values)


def start_campaign(database: Database, current: Settings, lines: list[str], number: int = 1) -> Campaign:
    """A campaign that is sending: imported, approved by the hash of its preview, started."""
    campaign_id = make_campaign(database, current, lines, number)
    with database.staff() as session:
        shown = acts.draft(session, current, campaign_id)
        acts.approve(
            session, current, campaign_id, expected_hash=shown.hash, actor="cli:test", now=datetime.now(UTC)
        )
    with database.staff() as session:
        acts.start(session, campaign_id, actor="cli:test", now=datetime.now(UTC))
        return session.get_one(Campaign, campaign_id)


def ask_test(
    database: Database, current: Settings, campaign_id: int, to: str = "me@example.org", **changes: object
) -> int:
    """A test send that waits; its number."""
    with database.staff() as session:
        draft = acts.draft(session, current, campaign_id)
        first = draft.composed.notices[0]
        values = {
            "channel": None,
            "notice_hash": draft.hash,
            "region": "FR",
            "actor": "cli:test",
            "now": datetime.now(UTC),
        }
        texts = draft.preview(testsends.MADE_UP_NAME, first.language, first.variant)
        return testsends.ask(session, current.master, draft.campaign, texts, to=to, **(values | changes)).id
