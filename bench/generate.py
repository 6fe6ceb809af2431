"""Made-up patients by the million, straight into the product's tables, really sealed.

Importing 15 million rows would measure the importer again. Doctors, campaigns and approvals are made by the
product's own acts; only patients and contacts are copied in. A campaign is one transaction, and one that has
its patients is left as it is: what was interrupted goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import psycopg

from bench import deployment as deployments
from bench.deployment import Deployment
from notifier.importing import CONTACT_PURPOSE, IDENTITY_PURPOSE, Identity, contact_blind
from notifier.sealing import DataKey, MasterKey
from notifier.states import Campaign, Channel

#: the largest practice of the incident; the smallest
LARGEST, SMALLEST = 200_000, 50

_PATIENT = (
    "COPY patient (id, campaign_id, doctor_id, list_file_id, row, person_blind, identity_sealed, has_postal, "
    "language) FROM STDIN (FORMAT BINARY)",
    ["int8", "int8", "int8", "int8", "int4", "bytea", "bytea", "bool", "text"],
)
_CONTACT = (
    "COPY contact (id, campaign_id, doctor_id, channel, value_blind, value_sealed) FROM STDIN (FORMAT BINARY)",
    ["int8", "int8", "int8", "text", "bytea", "bytea"],
)
_LINK = (
    "COPY patient_contact (patient_id, contact_id, doctor_id, rank) FROM STDIN (FORMAT BINARY)",
    ["int8", "int8", "int8", "int2"],
)
_ROWS_AT_ONCE = 10_000


class Part(NamedTuple):
    """One campaign's people: numbers from `first` on, the same for patient, contact and token."""

    campaign_id: int
    doctor_id: int
    data_key: bytes
    first: int
    patients: int


def sizes(patients: int, campaigns: int) -> list[int]:
    """How many patients each campaign has: the largest first, then from the smallest evenly upwards.

    Raises ValueError where there are too few patients for so many campaigns.
    """
    if campaigns == 1:
        return [patients]
    largest = min(LARGEST, patients // 5)
    rest, others = patients - largest, campaigns - 1
    mean = rest / others
    if mean < SMALLEST:
        raise ValueError(f"{patients} patients are too few for {campaigns} campaigns of {SMALLEST} and more")
    step = 2 * (mean - SMALLEST) / max(others - 1, 1)
    found = [largest, *(int(SMALLEST + step * number) for number in range(others))]
    found[-1] += patients - sum(found)
    return found


def fill(
    deployment: Deployment,
    patients: int,
    campaigns: int,
    say: Callable[[str], None],
    processes: int | None = None,
) -> list[int]:
    """Makes what is not there yet; returns the campaigns, the largest first, all approved or further.

    Seals and copies in as many processes as there are cores, or so many.
    """
    incident_id = deployments.open_incident(deployment)
    planned = sizes(patients, campaigns)
    ids = _campaigns(deployment, incident_id, len(planned))
    parts, first = [], 0
    with psycopg.connect(deployment.urls.database_url) as connection:
        for campaign_id, many in zip(ids, planned, strict=True):
            row = connection.execute(
                "SELECT doctor_id, data_key, EXISTS (SELECT FROM patient WHERE campaign_id = campaign.id) "
                "FROM campaign WHERE id = %s",
                (campaign_id,),
            ).fetchone()
            assert row is not None
            if not row[2]:
                parts.append(Part(campaign_id, row[0], row[1], first, many))
            first += many
    _copy_all(deployment, parts, say, processes)
    with psycopg.connect(deployment.urls.database_url, autocommit=True) as connection:
        for table in ("patient", "contact"):
            connection.execute(f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), max(id)) FROM {table}")
        if parts:
            say("statistics")
            connection.execute("VACUUM ANALYZE patient, contact, patient_contact")
    _approve_all(deployment, ids, say)
    return ids


def _campaigns(deployment: Deployment, incident_id: int, many: int) -> list[int]:
    with deployment.database.engine.connect() as connection:
        known = [row[0] for row in connection.exec_driver_sql("SELECT id FROM campaign ORDER BY id")]
    made = [deployments.create_campaign(deployment, incident_id, number) for number in range(len(known), many)]
    ids = known + made
    if len(ids) != many:
        raise ValueError(f"the data folder holds {len(ids)} campaigns, not {many}: it was made for other numbers")
    return ids


def _copy_all(
    deployment: Deployment, parts: Sequence[Part], say: Callable[[str], None], processes: int | None
) -> None:
    if not parts:
        return
    work = (deployment.urls.database_url, deployment.current.master)
    done, total = 0, sum(part.patients for part in parts)
    with ExitStack() as stack:
        # The largest first: the last to be done should be small.
        parts = sorted(parts, key=lambda part: -part.patients)
        if processes == 1:
            _remember(*work)
            copied: Iterator[int] = map(_copy, parts)
        else:
            pool = stack.enter_context(multiprocessing.get_context("spawn").Pool(processes, _remember, work))
            copied = pool.imap_unordered(_copy, parts)
        for many in copied:
            before, done = done, done + many
            if done * 10 // total > before * 10 // total:
                say(f"{done:,} of {total:,} patients")


def _approve_all(deployment: Deployment, ids: Sequence[int], say: Callable[[str], None]) -> None:
    with deployment.database.engine.connect() as connection:
        drafts = {
            row[0]
            for row in connection.exec_driver_sql(f"SELECT id FROM campaign WHERE state = '{Campaign.DRAFT}'")
        }
    if drafts:
        say(f"approving {len(drafts):,} campaigns")
    for campaign_id in ids:
        if campaign_id in drafts:
            deployments.approve(deployment, campaign_id)


_url: str
_master: MasterKey


def _remember(url: str, master: MasterKey) -> None:
    global _url, _master
    _url, _master = url, master


def _copy(part: Part) -> int:
    """One campaign in one transaction, by a process of the pool."""
    key = _master.open_data_key(part.data_key, part.campaign_id)
    with psycopg.connect(_url) as connection:
        # As a restored backup would: what the rows point to is known to be there.
        connection.execute("SET session_replication_role = replica")
        connection.execute("SET synchronous_commit = off")
        row = connection.execute(
            "INSERT INTO list_file (campaign_id, doctor_id, sha256, rows, accepted, merged, refused, imported_by) "
            "VALUES (%s, %s, %s, %s, %s, 0, 0, 'bench') RETURNING id",
            (
                part.campaign_id,
                part.doctor_id,
                hashlib.sha256(b"%d" % part.campaign_id).digest(),
                part.patients,
                part.patients,
            ),
        ).fetchone()
        assert row is not None
        for first in range(part.first, part.first + part.patients, _ROWS_AT_ONCE):
            last = min(first + _ROWS_AT_ONCE, part.first + part.patients)
            made = [_person(key, part, row[0], number) for number in range(first, last)]
            for position, (statement, types) in enumerate((_PATIENT, _CONTACT, _LINK)):
                _write(connection, statement, types, (rows[position] for rows in made))
        # The one trigger that matters here: how many stand where.
        connection.execute(
            "INSERT INTO patient_tally (campaign_id, language, variant, has_postal, outcome, n, merged) "
            "SELECT campaign_id, language, variant, has_postal, outcome, count(*), 0 FROM patient "
            "WHERE campaign_id = %s GROUP BY 1, 2, 3, 4, 5",
            (part.campaign_id,),
        )
    return part.patients


def _write(
    connection: psycopg.Connection[Any], statement: str, types: list[str], rows: Iterator[tuple[Any, ...]]
) -> None:
    with connection.cursor() as cursor, cursor.copy(statement.encode()) as copy:
        copy.set_types(types)
        for row in rows:
            copy.write_row(row)


def _person(key: DataKey, part: Part, list_file_id: int, number: int) -> tuple[tuple[Any, ...], ...]:
    """Rows for a patient, their contact and the link. Numbers start at 1, tokens at 0."""
    address = f"rid-{number:08}@example.org"
    identity = Identity(
        patient_id=f"P{number}",
        last_name=f"Nom{number % 9973}",
        first_name="Prénom",
        birth_date="1975-03-12",
        address=("2 rue des Lilas",),
        postal_code="75002",
        town="Paris",
    )
    blind = key.blind(b"person:%d" % number)
    sealed = key.seal(identity.to_json(), IDENTITY_PURPOSE)
    campaign, doctor, own = part.campaign_id, part.doctor_id, number + 1
    return (
        (own, campaign, doctor, list_file_id, number - part.first + 2, blind, sealed, True, "fr"),
        (
            own,
            campaign,
            doctor,
            str(Channel.EMAIL),
            contact_blind(key, Channel.EMAIL, address),
            key.seal(address.encode(), CONTACT_PURPOSE),
        ),
        (own, own, doctor, 0),
    )
