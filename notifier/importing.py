"""Step 1: a list file becomes patients and contacts, and a report of every refused or doubtful row.

Rows are judged one by one (`judging`), sealed, and inserted by thousands while the next are judged. Rows that may
name somebody already there (`matching.Seen` never misses one) wait until the end, are compared with the people
they could be, and become one with them or new. So memory stays bounded, and a row costs no look-up.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import psycopg
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from notifier import models, states, store
from notifier.addresses import folded
from notifier.checking import ROWS_AT_ONCE, check_list, rows_of, rows_of_doctor, unread_columns
from notifier.copying import FALSE, TRUE, boolean, copy, fields, int2, int4, int8, raw
from notifier.copying import text as text_field
from notifier.errors import ConflictError
from notifier.importers import MAX_BYTES, Column, Limits, RawList, Refusal, open_list, refused
from notifier.judging import WORDS, Identity, Judged, RowReason, Setting, own_keys
from notifier.matching import MOST_SHARING, Contact, Keys, People, Person, Said, Seen
from notifier.reaching import has_told, is_set_aside
from notifier.sealing import BLIND_BYTES, DataKey
from notifier.states import Channel, Delivery, Exclusion, Outcome, Unreached

__all__ = ["WORDS", "Difference", "Identity", "RowReason", "check_list", "compare_list", "import_list"]

IDENTITY_PURPOSE = b"patient.identity"
CONTACT_PURPOSE = b"contact.value"

_OPEN_STATES = (
    states.Campaign.DRAFT,
    states.Campaign.READY,
    states.Campaign.APPROVED,
    states.Campaign.SENDING,
    states.Campaign.PAUSED,
    states.Campaign.COMPLETED,
)


def contact_blind(data_key: DataKey, channel: Channel, address: str) -> bytes:
    """The blind index of an email address (whatever its case) or of a number in E.164."""
    return data_key.blind(_CONTACT_PREFIX[channel] + address.casefold().encode())


_CONTACT_PREFIX = {channel: f"{channel}:".encode() for channel in Channel}


class Changed(NamedTuple):
    """A patient of an earlier list whom this one changes."""

    row: int
    patient_id: int
    #: of: name, birth_date, address, phones, identity, contacts, language, variant, excluded
    what: tuple[str, ...]


@dataclass(slots=True)
class Difference:
    """What a list changes in a campaign. Counts are whole; rows and ids stop at `most` of each.

    `rows` = `refused` + `new` + `changed` + `unchanged` + `repeated`: people count by their first row, `repeated`
    are further rows of somebody whom this list has named already.
    """

    most: int = 1000
    rows: int = 0
    refused: int = 0
    #: people no earlier list named
    new: int = 0
    repeated: int = 0
    #: people of earlier lists whom this one names too
    changed: int = 0
    unchanged: int = 0
    #: of those named again: already told, and not told again whatever the list changes
    informed: int = 0
    #: of those named again: to be told or being told, before this list as after it unless it excludes them
    on_the_way: int = 0
    #: people to be told who were not before: new ones, and those whom a new contact makes reachable
    due: int = 0
    #: people of earlier lists whom this one does not name; nothing changes for them: they stay, and are told
    gone: int = 0
    #: of these: to be told or being told
    gone_on_the_way: int = 0
    #: of the new: with the name of one who is gone, in a list without ids: perhaps the same with another contact
    perhaps_known: int = 0
    #: of the changed: a message went to a contact that the list takes away, and to none that they keep
    told_elsewhere: int = 0
    new_rows: list[int] = field(default_factory=list)
    changed_rows: list[Changed] = field(default_factory=list)
    #: patients, by id
    gone_ids: list[int] = field(default_factory=list)

    def add_new(self, rows: Collection[int]) -> None:
        self.new += len(rows)
        self.new_rows += list(rows)[: self.most - len(self.new_rows)]


def import_list(
    session: Session,
    campaign: models.Campaign,
    data_key: DataKey,
    source: Path | BinaryIO,
    *,
    region: str,
    actor: str,
    now: datetime,
    expected_doctor: str | Collection[str] | None = None,
    of_several: bool = False,
    own_contacts: Collection[str] = (),
    dead_domains: Collection[str] = (),
    max_bytes: int = MAX_BYTES,
    progress: Callable[[int], None] | None = None,
    filename: str | None = None,
    mapping: Mapping[str, str] | None = None,
    sheet: str | None = None,
    accepted_of: int | None = None,
) -> models.ListFile:
    """Saves the people of a list, in the caller's transaction; the caller commits, or rolls back on any error.

    The campaign's newest file again changes nothing and returns its import (see `newest`). A further file, also
    one that came before the newest, adds new people and corrects
    those already known: what it has a column for replaces what an earlier list said, contacts and exclusion
    included; who is not in it stays as they are. Once sending has begun, who was told stays told, and who could
    not be reached is on the way again only with a contact that was not tried. Making deliveries for those whom
    the list makes due (and taking back those to contacts it took away), moving the campaign's state, and the
    journal are the caller's.

    `expected_doctor` is what a doctor column may hold: the reference, or several spellings, the reference first.
    With `of_several` the list holds other doctors' patients as well, and only this one's are read.
    `own_contacts` are the doctor's own email addresses and numbers, used for no patient; `dead_domains` those
    found to take no mail; `filename`, `mapping` and `sheet` are for `importers.open_list`; `accepted_of` is the
    list whose accepted suggestions this one is. Raises ListError for a
    file that cannot be read, holds no patient or is another doctor's; ConflictError if the campaign was cancelled.
    """
    list_file, _ = _import(
        session,
        campaign,
        data_key,
        source,
        _Request(
            region,
            actor,
            now,
            expected_doctor,
            of_several,
            own_contacts,
            dead_domains,
            max_bytes,
            progress,
            filename,
            mapping,
            sheet,
            accepted_of,
        ),
        Difference(most=0),
    )
    return list_file


def compare_list(
    session: Session,
    campaign: models.Campaign,
    data_key: DataKey,
    source: Path | BinaryIO,
    *,
    region: str,
    now: datetime,
    expected_doctor: str | Collection[str] | None = None,
    of_several: bool = False,
    own_contacts: Collection[str] = (),
    dead_domains: Collection[str] = (),
    max_bytes: int = MAX_BYTES,
    most: int = 1000,
    progress: Callable[[int], None] | None = None,
    filename: str | None = None,
    mapping: Mapping[str, str] | None = None,
    sheet: str | None = None,
) -> Difference:
    """What `import_list` would change, without changing it: the import itself, taken back to a savepoint.

    The campaign's newest file differs in nothing: all counts are 0. Raises what `import_list` raises.
    """
    difference = Difference(most=most)
    savepoint = session.begin_nested()
    try:
        request = _Request(
            region,
            "compare",
            now,
            expected_doctor,
            of_several,
            own_contacts,
            dead_domains,
            max_bytes,
            progress,
            filename,
            mapping,
            sheet,
        )
        _import(session, campaign, data_key, source, request, difference)
    finally:
        savepoint.rollback()
    return difference


class _Request(NamedTuple):
    region: str
    actor: str
    now: datetime
    expected_doctor: str | Collection[str] | None
    of_several: bool
    own_contacts: Collection[str]
    dead_domains: Collection[str]
    max_bytes: int
    progress: Callable[[int], None] | None
    filename: str | None
    mapping: Mapping[str, str] | None
    sheet: str | None
    accepted_of: int | None = None

    def open(self, source: Path | BinaryIO) -> AbstractContextManager[RawList]:
        return open_list(
            source,
            filename=self.filename,
            mapping=self.mapping,
            sheet=self.sheet,
            today=self.now.date(),
            limits=Limits(max_bytes=self.max_bytes),
            wanted=rows_of_doctor(self.expected_doctor or ()) if self.of_several else None,
        )


def _import(
    session: Session,
    campaign: models.Campaign,
    data_key: DataKey,
    source: Path | BinaryIO,
    asked: _Request,
    difference: Difference,
) -> tuple[models.ListFile, Difference]:
    session.flush()
    has_started = lock(session, campaign.id)
    with asked.open(source) as reader:
        if (same := newest(session, campaign.id, reader.sha256)) is not None:
            return same, difference
        list_file = _new_list_file(session, campaign, reader, asked)
        connection = session.connection().connection.driver_connection
        assert isinstance(connection, psycopg.Connection)
        ids = _Ids(campaign.id, campaign.doctor_id, list_file.id, asked.now, has_started)
        saving = _Saving(connection, data_key, ids, reader, difference)
        setting = Setting(
            asked.region,
            asked.now.date(),
            reader.names_people,
            own_keys(asked.own_contacts, asked.region),
            frozenset(asked.dead_domains),
        )
        saving.stage(rows_of(reader, setting, asked.expected_doctor), asked.progress)
        saving.add_problems(unread_columns(reader))
    if not difference.rows:
        raise refused(Refusal.NO_ROW)
    if difference.rows == difference.refused:
        raise refused(Refusal.NO_PATIENT, rows=difference.rows)
    if has_started:
        # Results of deliveries wait for this moment: both sides change the same patients, in different orders.
        store.settle_alone(session)
    saving.finish()
    if has_started:
        # Without a lock: who cancels would wait for our patients, and we for the campaign. Should it happen from
        # here to the commit, `fallback.settle` stops what a cancelled campaign still has to send.
        _check_open(session.scalar(select(models.Campaign.state).where(models.Campaign.id == campaign.id)))
    list_file.rows, list_file.refused, list_file.accepted = difference.rows, difference.refused, difference.new
    list_file.merged = difference.rows - difference.refused - difference.new
    session.flush()
    return list_file, difference


def newest(session: Session, campaign_id: int, sha256: bytes) -> models.ListFile | None:
    """The import of this file, if it is the campaign's newest: then it changes nothing to import it again.

    Suggestions of it that were accepted since do not make it an older one: sent again it would take them back.
    """
    own = select(models.ListFile).where(models.ListFile.campaign_id == campaign_id)
    newest_first = own.order_by(models.ListFile.id.desc()).limit(1)
    same = session.scalar(newest_first.where(models.ListFile.sha256 == sha256))
    if same is None:
        return None
    further = models.ListFile.accepted_of.is_distinct_from(same.id)
    newer = session.scalar(newest_first.where(models.ListFile.id > same.id, further))
    return same if newer is None else None


def lock(session: Session, campaign_id: int) -> bool:
    """Whether sending has begun: so it stays to the transaction's end. Read after it what an import is decided by.

    Until it has begun the campaign is locked, so that nobody approves half a list; after it only other imports
    wait, so that neither a pause nor a receipt need. Raises ConflictError for a campaign that was cancelled.
    """
    session.execute(
        text("SELECT pg_advisory_xact_lock(:key, :id)"), {"key": store.Lock.IMPORT, "id": campaign_id % 2**31}
    )
    query = select(models.Campaign.state, models.Campaign.started_at).where(models.Campaign.id == campaign_id)
    state, started_at = session.execute(query).one()
    if started_at is None:
        savepoint = session.begin_nested()
        state, started_at = session.execute(query.with_for_update()).one()
        if started_at is None:
            savepoint.commit()
        else:
            savepoint.rollback()  # and with it the lock
    _check_open(state)
    return started_at is not None


def _check_open(state: str | None) -> None:
    if state not in _OPEN_STATES:
        raise ConflictError(f"A campaign that is {state} takes no further list.")


def _new_list_file(
    session: Session, campaign: models.Campaign, reader: RawList, asked: _Request
) -> models.ListFile:
    list_file = models.ListFile(
        campaign_id=campaign.id,
        doctor_id=campaign.doctor_id,
        sha256=reader.sha256,
        accepted_of=asked.accepted_of,
        rows=0,
        accepted=0,
        merged=0,
        refused=0,
        imported_by=asked.actor,
        imported_at=asked.now,
    )
    session.add(list_file)
    session.flush()
    return list_file


class _Ids(NamedTuple):
    campaign_id: int
    doctor_id: int
    list_file_id: int
    now: datetime
    #: deliveries may exist
    has_started: bool


# --- statements -------------------------------------------------------------------------------------
# COPY refuses tables with row-level security for our roles: rows go to temporary tables and from there on.

_TABLES = """
    SET LOCAL work_mem = '64MB';
    SET LOCAL jit = off;
    DROP TABLE IF EXISTS pg_temp.fresh_person, pg_temp.fresh_contact, pg_temp.fresh_id, pg_temp.staged_person,
        pg_temp.staged_contact, pg_temp.staged_problem, pg_temp.known_key, pg_temp.named_person,
        pg_temp.named_link, pg_temp.crowd;
    CREATE TEMPORARY TABLE fresh_person (
        row int, rows int, person bytea, id_key bytea, national bytea, name bytea, identity bytea, has_postal bool,
        is_minor bool, language text, variant text, sensitive bool, affected bool, outcome text, reason text,
        patient_id bigint DEFAULT nextval('patient_id_seq')
    ) ON COMMIT DROP;
    CREATE TEMPORARY TABLE fresh_contact (
        row int, rank int2, channel text, blind bytea, sealed bytea, is_new bool,
        contact_id bigint DEFAULT nextval('contact_id_seq')
    ) ON COMMIT DROP;
    CREATE TEMPORARY TABLE fresh_id (id bigint, row int) ON COMMIT DROP;
    CREATE TEMPORARY TABLE staged_person (
        row int, id bytea, national bytea, name bytea, other bytea, apart bytea, identity bytea, language text,
        comment bool, sensitive bool, is_deceased bool, affected bool, contacts bytea
    ) ON COMMIT DROP;
    CREATE TEMPORARY TABLE staged_contact (row int, rank int2, channel text, blind bytea, sealed bytea)
        ON COMMIT DROP;
    CREATE TEMPORARY TABLE staged_problem (row int, "column" text, reason text) ON COMMIT DROP;
    CREATE TEMPORARY TABLE known_key (key bytea, patient_id bigint) ON COMMIT DROP;
    CREATE TEMPORARY TABLE named_person (
        id bigint, rows int, is_changed bool, id_key bytea, national bytea, name bytea, identity bytea,
        has_postal bool, is_minor bool, language text, variant text, sensitive bool, affected bool, excluded text
    ) ON COMMIT DROP;
    CREATE TEMPORARY TABLE named_link (patient_id bigint, channel text, blind bytea, rank int2) ON COMMIT DROP;
"""

#: people whom earlier lists named first
_EARLIER = "SELECT coalesce(sum(accepted), 0)::bigint FROM list_file WHERE campaign_id = %(campaign_id)s"
_INSERT_FRESH = """
    INSERT INTO patient (
        id, campaign_id, doctor_id, list_file_id, listed_in, changed_in, row, merged, person_blind, id_blind,
        national_blind, name_blind, identity_sealed, has_postal, is_minor, language, variant,
        comment_sensitive, affected, outcome, outcome_reason, outcome_at
    )
    SELECT patient_id, %(campaign_id)s, %(doctor_id)s, %(list_file_id)s, %(list_file_id)s, %(list_file_id)s, row,
        rows - 1, person, id_key, national, name, identity, has_postal, is_minor, language, variant, sensitive,
        affected, outcome, reason, CASE WHEN outcome <> 'on_the_way' THEN %(now)s::timestamptz END
    FROM fresh_person
"""
#: contacts that cannot be there yet: neither looked for nor, once there, looked up
_NEW_CONTACTS = """
    INSERT INTO contact (id, campaign_id, doctor_id, channel, value_blind, value_sealed)
    SELECT contact_id, %(campaign_id)s, %(doctor_id)s, channel, blind, sealed FROM fresh_contact WHERE is_new
"""
_LINK_NEW = """
    INSERT INTO patient_contact (patient_id, contact_id, doctor_id, rank)
    SELECT p.patient_id, f.contact_id, %(doctor_id)s, f.rank
    FROM fresh_contact f JOIN fresh_person p USING (row) WHERE f.is_new
"""


def _insert_contacts(table: str, condition: str = "true") -> str:
    return f"""
        INSERT INTO contact (campaign_id, doctor_id, channel, value_blind, value_sealed)
        SELECT %(campaign_id)s, %(doctor_id)s, channel, blind, sealed FROM {table} WHERE {condition}
        ON CONFLICT (campaign_id, channel, value_blind) DO NOTHING
    """  # noqa: S608 - put together from constants and numbers


#: LIMIT keeps the planner, which knows nothing yet of what was just inserted, from reading the whole table
_CONTACT_OF = """
    LATERAL (
        SELECT id FROM contact c
        WHERE c.campaign_id = %(campaign_id)s AND c.channel = f.channel AND c.value_blind = f.blind LIMIT 1
    ) contact
"""
_LINK_FRESH = f"""
    INSERT INTO patient_contact (patient_id, contact_id, doctor_id, rank)
    SELECT p.patient_id, contact.id, %(doctor_id)s, f.rank
    FROM fresh_contact f JOIN fresh_person p USING (row) CROSS JOIN {_CONTACT_OF}
    WHERE NOT f.is_new
"""  # noqa: S608 - put together from constants
_UNLINK_NAMED = "DELETE FROM patient_contact WHERE patient_id IN (SELECT id FROM named_person WHERE is_changed)"
_LINK_NAMED = f"""
    INSERT INTO patient_contact (patient_id, contact_id, doctor_id, rank)
    SELECT f.patient_id, contact.id, %(doctor_id)s, f.rank
    FROM named_link f CROSS JOIN {_CONTACT_OF}
"""  # noqa: S608 - put together from constants

_KNOWN_KEYS = """
    WITH wanted AS MATERIALIZED (
        SELECT key FROM staged_person, unnest(ARRAY[id, national, name, other, apart]) AS key WHERE key IS NOT NULL
    )
    INSERT INTO known_key
    SELECT key, p.id FROM patient p, unnest(ARRAY[person_blind, id_blind, national_blind, name_blind]) AS key
    WHERE p.campaign_id = %(campaign_id)s AND key IS NOT NULL
      AND (person_blind IN (SELECT key FROM wanted) OR id_blind IN (SELECT key FROM wanted)
           OR national_blind IN (SELECT key FROM wanted) OR name_blind IN (SELECT key FROM wanted))
"""
_INDEXES = """
    CREATE INDEX ON staged_contact (row);
    CREATE INDEX ON known_key (key);
    ANALYZE staged_person, staged_contact, known_key;
"""
_STAGED = """
    SELECT row, id, national, name, other, apart, identity, language, comment, sensitive, is_deceased, affected,
        contacts
    FROM staged_person ORDER BY row
"""
#: LIMIT for the same reason as above: without it, a list that came again read all contacts for each of its rows
_CANDIDATES = """
    SELECT p.id, p.person_blind, p.id_blind, p.national_blind, p.name_blind, p.identity_sealed, p.language,
        p.variant, p.comment_sensitive, p.outcome, p.outcome_reason, p.affected, p.listed_in, (
            SELECT string_agg(
                CASE c.channel WHEN 'email' THEN '\\x65'::bytea ELSE '\\x73'::bytea END || c.value_blind,
                ''::bytea ORDER BY c.channel, k.rank
            )
            FROM patient_contact k
            CROSS JOIN LATERAL (SELECT channel, value_blind FROM contact WHERE id = k.contact_id LIMIT 1) c
            WHERE k.patient_id = p.id
        )
    FROM (SELECT DISTINCT patient_id FROM known_key WHERE key = ANY(%b)) wanted
    CROSS JOIN LATERAL (SELECT * FROM patient WHERE id = wanted.patient_id LIMIT 1) p
    ORDER BY p.id
"""

#: what was sent or made for this patient, if there is any such
_MADE = """
    EXISTS (
        SELECT FROM delivery_patient dp JOIN delivery d ON d.id = dp.delivery_id
        WHERE dp.patient_id = p.id AND {such}
    )
"""
#: a contact of this patient that no delivery went to
_UNTRIED = f"""
    EXISTS (
        SELECT FROM patient_contact k
        WHERE k.patient_id = p.id AND NOT EXISTS (
            SELECT FROM delivery_patient dp JOIN delivery d ON d.id = dp.delivery_id
            WHERE dp.patient_id = p.id AND d.contact_id = k.contact_id AND NOT {is_set_aside("d")}
        )
    )
"""  # noqa: S608 - put together from constants
_TOLD = _MADE.format(such=has_told("d"))
_AT_WORK = _MADE.format(
    such=f"d.state IN ('{Delivery.PENDING}', '{Delivery.SENDING}', '{Delivery.UNKNOWN}', '{Delivery.ACCEPTED}', "
    f"'{Delivery.DELIVERED}')"
)
_LINKED = "EXISTS (SELECT FROM patient_contact k WHERE k.patient_id = p.id)"
#: Who was told stays told; what another act than a list has excluded stays so. Once sending has begun, whoever has
#: a message at work is on the way: `fanout.extend` looks at what becomes of it.
_UPDATE_NAMED = f"""
    UPDATE patient p
    SET merged = p.merged + n.rows, listed_in = %(list_file_id)s, changed_in = %(list_file_id)s,
        id_blind = coalesce(p.id_blind, n.id_key),
        national_blind = coalesce(n.national, p.national_blind), name_blind = coalesce(n.name, p.name_blind),
        identity_sealed = n.identity, has_postal = n.has_postal, is_minor = n.is_minor, language = n.language,
        variant = n.variant, comment_sensitive = n.sensitive, affected = n.affected,
        (outcome, outcome_reason, outcome_at) = (
            SELECT outcome, reason, CASE
                WHEN (outcome, reason) IS NOT DISTINCT FROM (p.outcome, p.outcome_reason) THEN p.outcome_at
                WHEN outcome = 'on_the_way' THEN NULL
                ELSE %(now)s::timestamptz
            END
            FROM (VALUES
                (1, p.outcome, p.outcome_reason, p.outcome = '{Outcome.INFORMED}'),
                (2, '{Outcome.EXCLUDED}', n.excluded, n.excluded IS NOT NULL),
                (3, p.outcome, p.outcome_reason,
                    p.outcome = '{Outcome.EXCLUDED}' AND NOT p.outcome_reason = ANY(%(exclusions)s)),
                (4, '{Outcome.ON_THE_WAY}', NULL, p.outcome = '{Outcome.ON_THE_WAY}' AND {_LINKED}),
                (5, '{Outcome.ON_THE_WAY}', NULL, %(has_started)s AND p.outcome <> '{Outcome.UNREACHED}'
                    AND {_AT_WORK}),
                (6, '{Outcome.ON_THE_WAY}', NULL, CASE WHEN %(has_started)s THEN {_UNTRIED} ELSE {_LINKED} END),
                (7, '{Outcome.UNREACHED}', CASE
                    WHEN NOT {_LINKED} THEN '{Unreached.NO_CONTACT}'
                    WHEN p.outcome = '{Outcome.UNREACHED}' THEN p.outcome_reason
                    ELSE '{Unreached.ALL_FAILED}' END, true)
            ) AS choice (place, outcome, reason, applies)
            WHERE applies ORDER BY place LIMIT 1
        )
    FROM named_person n, patient old
    WHERE p.id = n.id AND n.is_changed AND old.id = p.id
    RETURNING p.outcome = '{Outcome.ON_THE_WAY}' AND old.outcome <> '{Outcome.ON_THE_WAY}' AND NOT {_TOLD}
"""  # noqa: S608 - put together from constants
_UPDATE_UNCHANGED = """
    UPDATE patient p SET merged = p.merged + n.rows, listed_in = %(list_file_id)s
    FROM named_person n WHERE p.id = n.id AND NOT n.is_changed
"""

#: contacts of more people of the campaign than a household has
_CROWDS = f"""
    CREATE TEMPORARY TABLE crowd ON COMMIT DROP AS
        SELECT c.id, c.channel, c.value_blind AS blind
        FROM contact c LEFT JOIN patient_contact k ON k.contact_id = c.id
        WHERE c.campaign_id = %(campaign_id)s
        GROUP BY c.id HAVING count(k.patient_id) > {MOST_SHARING} OR c.value_blind = ANY(%(crowded)s)
"""  # noqa: S608 - put together from constants
#: they go from everybody whom this list names, with a problem for each row
_DROP_CROWDS = f"""
    WITH parted AS (
        DELETE FROM patient_contact k USING crowd, patient p
        WHERE k.contact_id = crowd.id AND p.id = k.patient_id AND p.listed_in = %(list_file_id)s
        RETURNING p.id, p.list_file_id, p.row, crowd.channel
    ), told AS (
        INSERT INTO staged_problem
        SELECT row, CASE channel WHEN 'email' THEN 'email' ELSE 'phone' END, '{RowReason.SHARED_BY_MANY}'
        FROM (
            SELECT f.row, f.channel FROM staged_contact f JOIN crowd USING (channel, blind)
            UNION ALL
            SELECT row, channel FROM parted
            WHERE list_file_id = %(list_file_id)s AND row NOT IN (SELECT row FROM staged_person)
        ) lost
    )
    INSERT INTO fresh_id SELECT DISTINCT id, 0 FROM parted
"""  # noqa: S608 - put together from constants
_PARTED = "UPDATE patient p SET changed_in = %(list_file_id)s FROM fresh_id WHERE p.id = fresh_id.id"
_UNREACH = f"""
    UPDATE patient p
    SET outcome = '{Outcome.UNREACHED}', outcome_reason = '{Unreached.NO_CONTACT}', outcome_at = %(now)s
    FROM fresh_id
    WHERE p.id = fresh_id.id AND p.outcome = '{Outcome.ON_THE_WAY}' AND NOT {_LINKED} AND NOT {_AT_WORK}
"""  # noqa: S608 - put together from constants
_INSERT_PROBLEMS = """
    INSERT INTO list_problem (list_file_id, doctor_id, row, "column", reason)
    SELECT %(list_file_id)s, %(doctor_id)s, row, "column", reason FROM staged_problem ORDER BY row
"""
_GONE = """
    SELECT id, outcome = 'on_the_way' FROM patient
    WHERE campaign_id = %(campaign_id)s AND listed_in <> %(list_file_id)s ORDER BY id
"""


#: who has neither patient id nor anything else to be known by than a name and a contact
_NAMED_ONLY = """
    campaign_id = %(campaign_id)s AND id_blind IS NULL AND national_blind IS NULL AND name_blind IS NULL
"""
_GONE_NAMES = f"""
    SELECT identity_sealed FROM patient
    WHERE {_NAMED_ONLY} AND listed_in <> %(list_file_id)s AND outcome <> '{Outcome.EXCLUDED}'
"""  # noqa: S608 - put together from constants
_NEW_NAMES = f"""
    SELECT row, identity_sealed FROM patient WHERE {_NAMED_ONLY} AND list_file_id = %(list_file_id)s ORDER BY row
"""  # noqa: S608 - put together from constants
#: an email that was accepted may yet come back: then the new contact is next, and nothing is lost
_TOLD_ELSEWHERE = f"""
    WITH went AS (
        SELECT p.id, d.channel, EXISTS (
            SELECT FROM patient_contact k WHERE k.patient_id = p.id AND k.contact_id = d.contact_id
        ) AS is_theirs
        FROM patient p JOIN delivery_patient dp ON dp.patient_id = p.id JOIN delivery d ON d.id = dp.delivery_id
        WHERE p.id = ANY(%(moved)s) AND p.outcome <> '{Outcome.EXCLUDED}'
          AND d.state IN ('{Delivery.ACCEPTED}', '{Delivery.DELIVERED}')
          AND NOT EXISTS (SELECT FROM told WHERE told.patient_id = p.id)
    )
    SELECT id, min(channel) FROM went GROUP BY id HAVING NOT bool_or(is_theirs)
"""  # noqa: S608 - put together from constants


# --- saving -----------------------------------------------------------------------------------------

_FRESH, _CONTACT, _STAGED_ROW, _PROBLEM = fields(15), fields(6), fields(13), fields(3)
_STAGED_CONTACT = fields(5)
_FRESH_PERSON = (
    "fresh_person (row, rows, person, id_key, national, name, identity, has_postal, is_minor, language, variant, "
    "sensitive, affected, outcome, reason)"
)
_NAMED, _LINK, _KEY = fields(14), fields(4), fields(2)
_TAGS = {Channel.EMAIL: b"e", Channel.SMS: b"s"}
_CHANNELS = {ord(tag): channel for channel, tag in _TAGS.items()}
_CHANNEL_FIELDS = {channel: text_field(channel) for channel in Channel}
# named once: an enum's look-up of a member costs a row more than what it is for
_BY_EMAIL, _BY_SMS = Channel.EMAIL, Channel.SMS
_EMAIL_FIELD, _SMS_FIELD = _CHANNEL_FIELDS[Channel.EMAIL], _CHANNEL_FIELDS[Channel.SMS]
_RANKS = [int2(rank) for rank in range(16)]
#: a blind index, whose length is always the same
_BLIND = raw(bytes(BLIND_BYTES))[:4]
_ONE, _NONE = int4(1), raw(None)
_MAX_RANK = 32767


class _Batch:
    """Rows on their way to the temporary tables."""

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.people: list[bytes] = []
        self.contacts: list[bytes] = []
        self.staged: list[bytes] = []
        self.staged_contacts: list[bytes] = []
        self.problems: list[bytes] = []
        #: some of `contacts` may be there already
        self.has_known_contacts = False


class _Saving:
    """One import: `stage` takes every row, `finish` those that may name somebody already there."""

    def __init__(
        self,
        connection: psycopg.Connection[Any],
        data_key: DataKey,
        ids: _Ids,
        reader: RawList,
        difference: Difference,
    ) -> None:
        self._connection = connection
        self._data_key, self._seal = data_key, data_key.sealer().seal
        self._columns = columns = reader.meanings
        self._difference = difference
        self._today = ids.now.date()
        earlier = connection.execute(_EARLIER, {"campaign_id": ids.campaign_id}).fetchone()
        assert earlier is not None
        self._has_earlier = earlier[0] > 0
        self._seen, self._seen_contacts = Seen(reader.likely_keys + 3 * earlier[0]), Seen(reader.likely_keys)
        #: people of each contact that came again, but for its first
        self._sharing: dict[bytes, set[bytes]] = {}
        #: contacts that surely are more people's than a household's: who had lost one before has not changed by
        #: being named with it again
        self._crowded: set[Hashable] = set()
        #: people of earlier lists whose contacts this one changes, with the row that does
        self._moved: dict[int, int] = {}
        self._ids = ids._asdict() | {
            "exclusions": [
                str(reason)
                for column, reason in (
                    (Column.DECEASED, Exclusion.DECEASED),
                    (Column.AFFECTED, Exclusion.NOT_AFFECTED),
                )
                if column in columns
            ]
        }
        connection.execute(_TABLES)
        self._see_earlier()

    def _see_earlier(self) -> None:
        """Remembers everybody of earlier lists as seen."""
        with self._connection.cursor(name="earlier", binary=True) as cursor:
            cursor.execute(
                "SELECT person_blind, id_blind, national_blind, name_blind FROM patient WHERE campaign_id = %s",
                (self._ids["campaign_id"],),
            )
            while rows := cursor.fetchmany(ROWS_AT_ONCE):
                for row in rows:
                    for key in row:
                        if key is not None:
                            self._seen.add(int.from_bytes(key[:4]))

    # -- every row

    def stage(self, judged_rows: Iterator[Judged], progress: Callable[[int], None] | None) -> None:
        """Inserts the rows of people not seen before while the next ones are judged; lays the others aside."""
        difference, batch = self._difference, _Batch()
        with ThreadPoolExecutor(1) as writer:
            writing: Future[None] | None = None
            for judged in judged_rows:
                difference.rows += 1
                self._add(judged, batch)
                if difference.rows % ROWS_AT_ONCE == 0:
                    if writing:
                        writing.result()
                    writing = writer.submit(self._write, batch)
                    batch = _Batch()
                    if progress:
                        progress(difference.rows)
            if writing:
                writing.result()
            self._write(batch)

    def add_problems(self, problems: list[tuple[int, str, RowReason]]) -> None:
        """Problems of the list as a whole."""
        copy(self._connection, "staged_problem", [_problem(*problem) for problem in problems])

    def _add(self, judged: Judged, batch: _Batch) -> None:
        for problem in judged.problems:
            batch.problems.append(_problem(judged.row, problem.column, problem.reason))
        keys = judged.keys
        if keys.first is None:
            self._difference.refused += 1
            return
        blind, seen = self._data_key.blind, self._seen.add
        maybe_known = False
        blinds: list[bytes | None] = []
        for key in keys:
            if key is None:
                blinds.append(None)
                continue
            blinds.append(one := blind(b"person:" + key.encode()))
            if seen(int.from_bytes(one[:4])):
                maybe_known = True
        row = int4(judged.row)
        sealed = raw(self._seal(judged.identity.to_json(), IDENTITY_PURPOSE))
        if maybe_known:
            contacts = self._contacts(judged, row, blinds, batch, is_staged=True)
            apart = None if judged.apart is None else blind(b"person:" + judged.apart.encode())
            batch.staged.append(_staged(judged, row, [*blinds, apart], sealed, contacts))
            return
        self._contacts(judged, row, blinds, batch, is_staged=False)
        batch.rows.append(judged.row)
        is_reachable = bool(judged.emails or judged.numbers)
        facts = _facts(
            judged.identity.has_postal,
            judged.identity.is_minor(self._today),
            judged.language,
            bool(judged.comment),
            bool(judged.comment_sensitive),
            judged.affected,
        )
        outcome = _outcome_fields(judged.excluded, is_reachable)
        national = raw(blinds[1])
        name = raw(blinds[2])
        batch.people.append(
            b"".join((_FRESH, row, _ONE, raw(_first(blinds)), _NONE, national, name, sealed, facts, outcome))
        )
        self._difference.due += is_reachable and judged.excluded is None

    def _contacts(
        self, judged: Judged, row: bytes, blinds: list[bytes | None], batch: _Batch, *, is_staged: bool
    ) -> bytes:
        """Seals the contacts of a row; returns their channels and blind indexes, one after the other."""
        packed = []
        to = batch.staged_contacts if is_staged else batch.contacts
        data_key, seal = self._data_key, self._seal
        for channel, channel_field, tag, addresses in (
            (_BY_EMAIL, _EMAIL_FIELD, b"e", judged.emails),
            (_BY_SMS, _SMS_FIELD, b"s", judged.numbers),
        ):
            for rank, address in enumerate(addresses):
                blind = contact_blind(data_key, channel, address)
                sealed = seal(address.encode(), CONTACT_PURPOSE)
                rank_field = _RANKS[rank] if rank < len(_RANKS) else int2(min(rank, _MAX_RANK))
                was_seen = self._seen_contacts.add(int.from_bytes(blind[:4]))
                fields_ = row + rank_field + channel_field + _BLIND + blind + raw(sealed)
                if is_staged:
                    to.append(_STAGED_CONTACT + fields_)
                else:
                    is_new = not (was_seen or self._has_earlier)
                    batch.has_known_contacts |= not is_new
                    to.append(_CONTACT + fields_ + (TRUE if is_new else FALSE))
                packed.append(tag + blind)
                if was_seen:
                    sharing = self._sharing.setdefault(blind, set())
                    if len(sharing) <= MOST_SHARING:
                        sharing.add(_first(blinds))
        return b"".join(packed)

    def _write(self, batch: _Batch) -> None:
        copy(self._connection, "staged_person", batch.staged)
        copy(self._connection, "staged_contact", batch.staged_contacts)
        copy(self._connection, "staged_problem", batch.problems)
        self._insert(batch.people, batch.contacts, has_known_contacts=batch.has_known_contacts)
        self._difference.add_new(batch.rows)

    def _insert(self, people: list[bytes], contacts: list[bytes], *, has_known_contacts: bool) -> None:
        """New people with the contacts of their one row, of which some may be there already."""
        if not people:
            return
        copy(self._connection, _FRESH_PERSON, people)
        copy(self._connection, "fresh_contact (row, rank, channel, blind, sealed, is_new)", contacts)
        self._execute(_INSERT_FRESH)
        self._execute(_NEW_CONTACTS)
        self._execute(_LINK_NEW)
        if has_known_contacts:
            self._execute(_insert_contacts("fresh_contact", "NOT is_new"))
            self._execute(_LINK_FRESH)
        self._connection.execute("TRUNCATE fresh_person, fresh_contact")

    def _execute(self, statement: str) -> int:
        return self._connection.execute(statement.encode(), self._ids).rowcount

    # -- rows that may name somebody already there

    def finish(self) -> None:
        """Compares the rows laid aside with the people they could be, and saves them and all problems."""
        self._resolve()
        if self._has_earlier or any(len(people) >= MOST_SHARING for people in self._sharing.values()):
            self._execute(_CROWDS)
            self._execute(_DROP_CROWDS)
            self._execute(_PARTED)
            self._difference.due -= self._execute(_UNREACH)
        copy(self._connection, "staged_problem", [*self._told_elsewhere(), *self._perhaps_known()])
        self._execute(_INSERT_PROBLEMS)
        if self._has_earlier:
            gone = self._connection.execute(_GONE, self._ids).fetchall()
            difference = self._difference
            difference.gone, difference.gone_on_the_way = len(gone), sum(row[1] for row in gone)
            difference.gone_ids = [row[0] for row in gone[: difference.most]]

    def _told_elsewhere(self) -> list[bytes]:
        """A doubt about everybody who is told, or counts as told soon, at contacts that are theirs no more."""
        if not (self._moved and self._ids["has_started"]):
            return []
        values = self._ids | {"moved": list(self._moved)}
        found = self._connection.execute(_TOLD_ELSEWHERE.encode(), values).fetchall()
        self._difference.told_elsewhere = len(found)
        return [
            _problem(
                self._moved[id_], Column.EMAIL if channel == _BY_EMAIL else Column.PHONE, RowReason.TOLD_ELSEWHERE
            )
            for id_, channel in found
        ]

    def _perhaps_known(self) -> list[bytes]:
        """A doubt about everybody new who has the name of somebody gone, where no id could tell."""
        if not self._has_earlier or Column.PATIENT_ID in self._columns:
            return []
        gone = self._connection.execute(_GONE_NAMES.encode(), self._ids, binary=True)
        names = {_names_of(self._opened(row[0])) for row in gone} - {None}
        new = self._connection.execute(_NEW_NAMES.encode(), self._ids, binary=True) if names else ()
        rows = [row for row, sealed in new if _names_of(self._opened(sealed)) in names]
        self._difference.perhaps_known = len(rows)
        return [_problem(row, "row", RowReason.PERHAPS_KNOWN) for row in rows]

    def _resolve(self) -> None:
        self._crowded = {blind for blind, people in self._sharing.items() if len(people) > MOST_SHARING}
        self._ids["crowded"] = list(self._crowded)
        self._execute(_KNOWN_KEYS)
        self._connection.execute(_INDEXES)
        with self._connection.cursor(name="staged", binary=True) as cursor:
            cursor.execute(_STAGED)
            while rows := cursor.fetchmany(ROWS_AT_ONCE):
                self._resolve_batch(rows)

    def _said(self, row: tuple[Any, ...]) -> Said:
        return Said(row[0], Keys(*row[1:6]), self._opened(row[6]), _unpacked(row[12]), *row[7:12])

    def _opened(self, sealed: bytes) -> Identity:
        return Identity.from_json(self._plain(sealed))

    def _resolve_batch(self, rows: list[tuple[Any, ...]]) -> None:
        candidates = self._candidates(rows)
        same = self._same(rows, candidates)
        taken = {id(row) for row in same.values()}
        batch = [self._said(row) for row in rows if id(row) not in taken]
        known = [self._known(row) for id_, row in candidates.items() if id_ not in same]
        people = People(self._columns, [one.person for one in known])
        problems: list[bytes] = []
        new: list[Person] = []
        whose: list[tuple[Said, Person]] = []
        for said in batch:
            said.contacts = [contact for contact in said.contacts if contact[1] not in self._crowded]
            placed = people.place(said)
            problems += [_problem(said.row, column, reason) for column, reason in placed.doubts]
            whose.append((said, placed.person))
            if placed.is_new:
                new.append(placed.person)
        copy(self._connection, "staged_problem", problems)
        first, last = int(rows[0][0]), int(rows[-1][0])
        self._execute(_insert_contacts("staged_contact", f"row BETWEEN {first} AND {last}"))
        ids = self._insert_new(new)
        named = [_named(id_, 1) for id_ in same]
        outcomes = Counter(candidates[id_][9] for id_ in same)
        self._difference.unchanged += len(same)
        self._difference.informed += outcomes[Outcome.INFORMED]
        self._difference.on_the_way += outcomes[Outcome.ON_THE_WAY]
        self._update(named, [one for one in known if one.person.rows], list(zip(ids, new, strict=True)))
        self._know(whose, {id(one.person): one.id for one in known} | dict(zip(map(id, new), ids, strict=True)))

    def _know(self, whose: list[tuple[Said, Person]], ids: dict[int, int]) -> None:
        """The next batch finds these people by every key of their rows."""
        keys = {(key, ids[id(person)]) for said, person in whose for key in (*said.keys.present(), person.key)}
        copy(self._connection, "known_key", [_KEY + _bytes(key) + int8(patient) for key, patient in keys])

    def _candidates(self, rows: list[tuple[Any, ...]]) -> dict[int, tuple[Any, ...]]:
        """Everybody whom these rows could name, by id."""
        keys = list({key for row in rows for key in row[1:6] if key is not None})
        found = self._connection.cursor(binary=True).execute(_CANDIDATES, (keys,)).fetchall()
        return {row[0]: row for row in found}

    def _same(
        self, rows: list[tuple[Any, ...]], candidates: dict[int, tuple[Any, ...]]
    ) -> dict[int, tuple[Any, ...]]:
        """Rows that say again what is known of a patient, and that no other row of the batch and nobody else could
        have to do with: most of a corrected list, settled at half the cost. By the patients' ids."""
        counts = Counter(key for row in rows for key in row[1:5] if key is not None)
        owners: dict[bytes, set[int]] = {}
        for id_, known in candidates.items():
            for key in known[1:5]:
                if key is not None:
                    owners.setdefault(key, set()).add(id_)
        same: dict[int, tuple[Any, ...]] = {}
        for row in rows:
            keys = {key for key in row[1:5] if key is not None}
            ids = set().union(*(owners.get(key, ()) for key in keys))
            if len(ids) != 1:
                continue
            (id_,) = ids
            known = candidates[id_]
            # A further row may name the same patient by a key that this one lacks.
            alone = all(counts[key] == (key in keys) for key in (*keys, *known[1:5]) if key is not None)
            if alone and keys <= set(known[1:5]) and self._says_the_same(row, known):
                same[id_] = row
        return same

    def _says_the_same(self, row: tuple[Any, ...], known: tuple[Any, ...]) -> bool:
        sealed, language, comment, sensitive, is_deceased, affected, contacts = row[6:13]
        was_deceased = known[9] == Outcome.EXCLUDED and known[10] == Exclusion.DECEASED
        return bool(
            known[12] != self._ids["list_file_id"]
            and (contacts or b"") == (known[13] or b"")
            and not (self._crowded and any(blind in self._crowded for _, blind in _unpacked(contacts)))
            and language == known[6]
            and (comment is None or comment == (known[7] == states.Variant.COMMENT))
            and (sensitive is None or sensitive == known[8])
            and (comment is not False or not known[8])
            and is_deceased == was_deceased
            and affected == known[11]
            and self._plain(sealed) == self._plain(known[5])
        )

    def _plain(self, sealed: bytes) -> bytes:
        return self._data_key.open(sealed, IDENTITY_PURPOSE)

    def _known(self, row: tuple[Any, ...]) -> _Known:
        id_, key, id_key, national, name, identity, language, variant, sensitive = row[:9]
        outcome, reason, affected, listed_in, contacts = row[9:]
        opened = self._opened(identity)
        person = Person(
            key,
            id_key or (key if opened.patient_id else None),
            national,
            name,
            opened,
            _unpacked(contacts),
            language,
            variant == states.Variant.COMMENT,
            sensitive,
            outcome == Outcome.EXCLUDED and reason == Exclusion.DECEASED,
            affected,
            is_earlier=listed_in != self._ids["list_file_id"],
        )
        return _Known(id_, outcome, person, person.is_earlier, opened.to_json(), _state_of(person))

    def _insert_new(self, people: list[Person]) -> list[int]:
        """Their ids, in order; their contacts come with those of the others."""
        if not people:
            return []
        rows = []
        for person in people:
            outcome, reason = _outcome(person.excluded, bool(person.contacts))
            sealed = raw(self._data_key.seal(person.identity.to_json(), IDENTITY_PURPOSE))
            rows.append(
                b"".join((_FRESH, int4(person.rows[0]), int4(len(person.rows)), *_key_fields(person), sealed))
                + self._facts_of(person)
                + text_field(outcome)
                + text_field(reason)
            )
            self._difference.due += outcome == Outcome.ON_THE_WAY
        copy(self._connection, _FRESH_PERSON, rows)
        self._execute(_INSERT_FRESH)
        ids = dict(self._connection.execute("SELECT row, patient_id FROM fresh_person").fetchall())
        self._connection.execute("TRUNCATE fresh_person")
        self._difference.add_new([person.rows[0] for person in people])
        self._difference.repeated += sum(len(person.rows) - 1 for person in people)
        return [ids[person.rows[0]] for person in people]

    def _facts_of(self, person: Person) -> bytes:
        return _facts(
            person.identity.has_postal,
            person.identity.is_minor(self._today),
            person.language,
            person.comment,
            person.sensitive,
            person.affected,
        )

    def _update(self, named: list[bytes], known: list[_Known], new: list[tuple[int, Person]]) -> None:
        """Saves what the rows of a batch changed for people already there, and the contacts of new ones; `named`
        holds those for whom nothing did."""
        links: list[bytes] = []
        for one in known:
            what = one.changes()
            self._count(one, what)
            if one.was_earlier and "contacts" in what:
                self._moved[one.id] = one.person.rows[0]
            named.append(self._changed(one.id, one.person) if what else _named(one.id, len(one.person.rows)))
            links += _links(one.id, one.person) if what else []
        for id_, person in new:
            links += _links(id_, person)
        copy(self._connection, "named_person", named)
        copy(self._connection, "named_link", links)
        self._execute(_UNLINK_NAMED)
        self._execute(_LINK_NAMED)
        self._execute(_UPDATE_UNCHANGED)
        updated = self._connection.execute(_UPDATE_NAMED.encode(), self._ids)
        self._difference.due += sum(row[0] for row in updated)
        self._connection.execute("TRUNCATE named_person, named_link")

    def _changed(self, id_: int, person: Person) -> bytes:
        sealed = self._data_key.seal(person.identity.to_json(), IDENTITY_PURPOSE)
        keys = (_bytes(_own_id(person)), _bytes(person.national), _bytes(person.name))
        head = _NAMED + int8(id_) + int4(len(person.rows)) + boolean(True)
        return b"".join((head, *keys, raw(sealed), self._facts_of(person), text_field(person.excluded)))

    def _count(self, one: _Known, what: tuple[str, ...]) -> None:
        difference = self._difference
        if not one.was_earlier:
            difference.repeated += len(one.person.rows)
            return
        difference.repeated += len(one.person.rows) - 1
        difference.informed += one.outcome == Outcome.INFORMED
        difference.on_the_way += one.outcome == Outcome.ON_THE_WAY
        difference.unchanged += not what
        difference.changed += bool(what)
        if what and len(difference.changed_rows) < difference.most:
            difference.changed_rows.append(Changed(one.person.rows[0], one.id, what))


@dataclass(slots=True)
class _Known:
    """A patient already there, and what the rows of this batch make of them."""

    id: int
    outcome: str
    person: Person
    #: named by earlier lists only, until this batch
    was_earlier: bool
    _identity: bytes
    _state: tuple[Any, ...]

    def changes(self) -> tuple[str, ...]:
        """What differs from before."""
        now = _state_of(self.person)
        names = ("contacts", "language", "variant", "excluded", "sensitive", "affected")
        what = [name for name, old, new in zip(names, self._state, now, strict=True) if old != new]
        if self.person.identity.to_json() != self._identity:
            before = Identity.from_json(self._identity)
            what += [
                name for name in Identity.__slots__ if getattr(before, name) != getattr(self.person.identity, name)
            ]
        return tuple(what)


def _state_of(person: Person) -> tuple[Any, ...]:
    return (
        sorted(person.contacts, key=lambda contact: contact[0]),
        person.language,
        person.variant,
        person.excluded,
        person.sensitive,
        person.affected,
    )


# --- one row for COPY -------------------------------------------------------------------------------


def _outcome(excluded: str | None, is_reachable: bool) -> tuple[str, str | None]:
    if excluded is not None:
        return Outcome.EXCLUDED, excluded
    return (Outcome.ON_THE_WAY, None) if is_reachable else (Outcome.UNREACHED, Unreached.NO_CONTACT)


def _names_of(identity: Identity) -> tuple[str, str] | None:
    """Names as they are compared; None where an id would tell, or nothing is known."""
    names = (folded(identity.birth_name or identity.last_name or ""), folded(identity.first_name or ""))
    return names if any(names) and identity.patient_id is None else None


@functools.lru_cache(maxsize=16)
def _outcome_fields(excluded: str | None, is_reachable: bool) -> bytes:
    outcome, reason = _outcome(excluded, is_reachable)
    return text_field(outcome) + text_field(reason)


def _first(blinds: list[bytes | None]) -> bytes:
    return next(blind for blind in blinds if blind is not None)


def _own_id(person: Person) -> Hashable | None:
    """The key of the patient id, where it is not the person's key itself."""
    return None if person.id_key == person.key else person.id_key


def _key_fields(person: Person) -> tuple[bytes, ...]:
    return tuple(map(_bytes, (person.key, _own_id(person), person.national, person.name)))


def _bytes(key: Hashable | None) -> bytes:
    assert key is None or isinstance(key, bytes)
    return raw(key)


@functools.lru_cache(maxsize=1024)
def _facts(
    has_postal: bool, is_minor: bool, language: str, comment: bool, sensitive: bool, affected: bool | None
) -> bytes:
    return b"".join(
        (
            boolean(has_postal),
            boolean(is_minor),
            text_field(language),
            text_field(states.Variant.COMMENT if comment else states.Variant.STANDARD),
            boolean(sensitive),
            boolean(affected),
        )
    )


def _staged(judged: Judged, row: bytes, blinds: list[bytes | None], sealed: bytes, contacts: bytes) -> bytes:
    return b"".join(
        (
            _STAGED_ROW,
            row,
            *map(raw, blinds),
            sealed,
            text_field(judged.language),
            boolean(judged.comment),
            boolean(judged.comment_sensitive),
            boolean(judged.excluded == Exclusion.DECEASED),
            boolean(judged.affected),
            raw(contacts),
        )
    )


def _problem(row: int, column: str, reason: str) -> bytes:
    # a header may hold anything, PostgreSQL's text no zero byte
    return _PROBLEM + int4(row) + text_field(column.replace("\0", "")) + text_field(reason)


def _named(id_: int, rows: int) -> bytes:
    """Somebody named again for whom nothing changes."""
    return _NAMED + int8(id_) + int4(rows) + boolean(False) + _NONE * 11


def _links(patient_id: int, person: Person) -> Iterator[bytes]:
    ranks = dict.fromkeys(Channel, 0)
    for channel, blind in person.contacts:
        assert isinstance(blind, bytes)
        rank = int2(min(ranks[channel], _MAX_RANK))
        ranks[channel] += 1
        yield _LINK + int8(patient_id) + _CHANNEL_FIELDS[channel] + raw(blind) + rank


def _unpacked(contacts: bytes | None) -> list[Contact]:
    step = BLIND_BYTES + 1
    return (
        [
            (_CHANNELS[contacts[start]], contacts[start + 1 : start + step])
            for start in range(0, len(contacts or b""), step)
        ]
        if contacts
        else []
    )
