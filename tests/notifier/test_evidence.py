"""The proof file: it says what happened, and tells when somebody changed it."""

from __future__ import annotations

import csv
import hashlib
import io
import subprocess
import zipfile
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import orjson
import pytest
from sqlalchemy import text

from notifier import evidence
from notifier.errors import InputError, NotFoundError
from notifier.evidence import FACTS, JOURNAL, MANIFEST, PEOPLE, SUMMARY, Proof
from notifier.providers.base import Blame, Kind, Outcome
from notifier.settings import Settings
from notifier.states import Channel
from notifier.store import Database
from tests.factories import make_settings, person, start_campaign
from tests.notifier.test_sending import FakeProvider, run, settle

ACCEPTED = Outcome(Kind.ACCEPTED, "accepted", provider_message_id="<id-7@example.net>", raw="250 queued as id-7")
REFUSED = Outcome(Kind.REFUSED, "smtp_550_5.1.1", Blame.PERSON)


@pytest.fixture
def current(database_url: str) -> Settings:
    return make_settings(database_url)


@pytest.fixture
def campaign(database: Database, current: Settings) -> int:
    """Three people: one told by email, one unreached, one deceased; and a row that was merged."""
    lines = [
        person(1, phone=None),
        person(2, phone=None, nom="=cmd()"),
        person(3, decede="oui"),
        person(1, phone=None),
    ]
    made = start_campaign(database, current, lines)
    answer = lambda message: REFUSED if "patient2" in message.recipient else ACCEPTED  # noqa: E731
    run(current, FakeProvider(Channel.EMAIL, answer), made.id, made.epoch)
    with database.staff() as session:
        session.execute(text("UPDATE delivery SET due_at = now() WHERE state = 'accepted'"))
    settle(database, current)
    return made.id


def export(database: Database, current: Settings, campaign: int, path: Path, **changes: object) -> Proof:
    values = {"language": "fr", "doctor_id": None, "actor": "cli:test", "now": datetime.now(UTC)} | changes
    return evidence.export(database, current, campaign, path, **values)


def read(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def rows(data: bytes) -> list[list[str]]:
    return list(csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""), delimiter=";"))


@pytest.mark.parametrize("language", evidence.LANGUAGES)
def test_it_says_of_each_person_who_was_told_how_and_when(
    database: Database, current: Settings, campaign: int, tmp_path: Path, language: str
):
    proof = export(database, current, campaign, tmp_path / "proof.zip", language=language)
    files = read(tmp_path / "proof.zip")
    header, *people = rows(files[PEOPLE])
    assert len({len(row) for row in [header, *people]}) == 1
    assert Counter(row[7] for row in people) == {"informed": 1, "unreached": 1, "excluded": 1}
    told = next(row for row in people if row[7] == "informed")
    assert (told[4], told[16], told[17], told[19]) == ("Nom1", "email", "patient1@example.org", "accepted")
    assert proof.counts == {
        "imported": 4, "merged": 1, "excluded": 1, "on_the_way": 0, "informed": 1, "unreached": 1,
    }  # fmt: skip
    assert "id-7@example.net" in files[evidence.HAND_OVERS].decode()
    facts = orjson.loads(files[FACTS])
    assert facts["counts"] == proof.counts
    assert facts["notices"], "the frozen texts are there"
    assert all(one["file"] in files for one in facts["notices"])
    assert "Camille Exemple1" in files[SUMMARY].decode()
    assert (tmp_path / "proof.zip").stat().st_mode & 0o077 == 0, "for its owner alone"


def test_a_spreadsheet_computes_nothing_of_it(
    database: Database, current: Settings, campaign: int, tmp_path: Path
):
    export(database, current, campaign, tmp_path / "proof.zip")
    cells = {cell for row in rows(read(tmp_path / "proof.zip")[PEOPLE]) for cell in row}
    assert "'=cmd()" in cells or not any("cmd" in cell for cell in cells)
    assert not any(cell.startswith(("=", "+", "-", "@")) for cell in cells)


def test_it_holds_by_our_check_and_by_everybodys_tool(
    database: Database, current: Settings, campaign: int, tmp_path: Path
):
    proof = export(database, current, campaign, tmp_path / "proof.zip")
    found = evidence.verify(tmp_path / "proof.zip")
    assert (found.problems, found.manifest) == ((), proof.manifest)
    with zipfile.ZipFile(tmp_path / "proof.zip") as opened:
        opened.extractall(tmp_path / "out")
    subprocess.run(["sha256sum", "--check", "--strict", MANIFEST], cwd=tmp_path / "out", check=True)
    with database.staff() as session:
        noted = session.scalar(text("SELECT detail->>'manifest' FROM journal WHERE action = 'evidence.export'"))
    assert noted == proof.manifest


def rewritten(path: Path, changes: dict[str, bytes | None], *, with_manifest: bool) -> Path:
    """The file with some entries replaced or left out, and the manifest made to fit, as a forger would."""
    files = {name: data for name, data in (read(path) | changes).items() if data is not None}
    if with_manifest:
        hashes = {name: hashlib.sha256(data).hexdigest() for name, data in files.items() if name != MANIFEST}
        files[MANIFEST] = "".join(f"{value}  {name}\n" for name, value in sorted(hashes.items())).encode()
    target = path.with_name("forged.zip")
    with zipfile.ZipFile(target, "w") as opened:
        for name, data in files.items():
            opened.writestr(name, data)
    return target


def test_whoever_changes_a_file_is_found_out(database: Database, current: Settings, campaign: int, tmp_path: Path):
    proof = export(database, current, campaign, tmp_path / "proof.zip")
    files = read(tmp_path / "proof.zip")
    people = files[PEOPLE].replace(b"unreached", b"informed")
    notice = next(name for name in files if name.startswith("notices/"))
    text_changed = files[notice].replace(b"Dr", b"Pr")
    acts = files[JOURNAL].replace(b'"actor":"cli:test"', b'"actor":"cli:other"')
    counts = files[FACTS].replace(b'"unreached": 1', b'"unreached": 0')
    swapped = (
        files[PEOPLE].replace(b"unreached", b"?").replace(b"informed", b"unreached").replace(b"?", b"informed")
    )
    swapped = swapped.replace(b"all_failed", b"")
    header = files[evidence.DELIVERIES].split(b"\r\n")[0] + b"\r\n"
    for changes, with_manifest, said in (
        ({PEOPLE: people}, False, f"{PEOPLE} was changed."),
        ({PEOPLE: people}, True, f"{PEOPLE} does not hold the people that are counted."),
        ({SUMMARY: None}, False, f"{SUMMARY} is missing."),
        ({"more.csv": b"x"}, False, "more.csv is not in the manifest."),
        ({notice: text_changed}, True, f"{notice} is not the text that was frozen."),
        ({JOURNAL: acts}, True, "of the journal was changed."),
        ({FACTS: counts}, True, "The counts do not add up."),
        ({JOURNAL: b""}, True, "The journal holds no approval of these texts."),
        ({PEOPLE: swapped}, True, "informed without a message that was taken"),
        ({evidence.DELIVERIES: header}, True, f"{evidence.DELIVERIES} does not hold the messages"),
    ):
        forged = evidence.verify(rewritten(tmp_path / "proof.zip", changes, with_manifest=with_manifest))
        assert any(said in problem for problem in forged.problems), (said, forged.problems)
        assert not with_manifest or forged.manifest != proof.manifest


def test_a_damaged_file_is_refused_wherever_it_is_damaged(
    database: Database, current: Settings, campaign: int, tmp_path: Path
):
    export(database, current, campaign, tmp_path / "proof.zip")
    whole, files = (tmp_path / "proof.zip").read_bytes(), read(tmp_path / "proof.zip")
    for place in range(0, len(whole), 97):
        (tmp_path / "x.zip").write_bytes(whole[:place] + bytes(10) + whole[place + 10 :])
        try:
            found = evidence.verify(tmp_path / "x.zip").problems
        except InputError:
            continue
        # What is damaged may be no part of what is proved: a zip's directory also holds times and rights.
        assert found or read(tmp_path / "x.zip") == files, place


@pytest.mark.parametrize("facts", [b"[]", b'{"format": "patient-notifier evidence 1", "notices": null}', b"7"])
def test_facts_of_another_shape_are_refused(
    database: Database, current: Settings, campaign: int, tmp_path: Path, facts: bytes
):
    export(database, current, campaign, tmp_path / "proof.zip")
    with pytest.raises(InputError, match="not a whole proof file"):
        evidence.verify(rewritten(tmp_path / "proof.zip", {FACTS: facts}, with_manifest=True))


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 and no more", b"%PDF-1.7"])
def test_what_is_no_proof_file_is_refused(tmp_path: Path, data: bytes):
    (tmp_path / "x.zip").write_bytes(data)
    with pytest.raises(InputError, match="not a whole proof file"):
        evidence.verify(tmp_path / "x.zip")


def test_a_doctor_gets_no_proof_of_anothers_campaign(
    database: Database, current: Settings, campaign: int, tmp_path: Path
):
    other = start_campaign(database, current, [person(9, phone=None)], 2)
    with pytest.raises(NotFoundError):
        export(database, current, campaign, tmp_path / "proof.zip", doctor_id=other.doctor_id)
    assert list(tmp_path.iterdir()) == [], "nothing half-written"
    with database.staff() as session:
        own = session.scalar(text("SELECT doctor_id FROM campaign WHERE id = :id"), {"id": campaign})
    assert export(database, current, campaign, tmp_path / "own.zip", doctor_id=own).counts["imported"] == 4
    data = b"".join(read(tmp_path / "own.zip").values())
    assert b"Exemple2" not in data


def test_after_erasure_it_still_proves_by_the_row(
    database: Database, current: Settings, campaign: int, tmp_path: Path
):
    with database.staff() as session:
        session.execute(text("UPDATE campaign SET data_key = NULL"))
    export(database, current, campaign, tmp_path / "proof.zip")
    data = b"".join(read(tmp_path / "proof.zip").values())
    assert evidence.verify(tmp_path / "proof.zip").problems == ()
    assert b"Nom1" not in data
    assert b"patient1@" not in data
