"""What a person does for those no message reached: letters, calls, and saying that it was done.

A patient who was told so is informed, with the way as the reason; a later failure of a message changes nothing
about that. The files name people: they are for the doctor, who is the controller of the data, and are made anew
each time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import Row, text
from sqlalchemy.orm import Session

from notifier import reaching, store, writing
from notifier.errors import ConflictError, InputError, NotFoundError
from notifier.judging import Identity
from notifier.models import Campaign
from notifier.sealing import DataKey, MasterKey
from notifier.states import Campaign as State
from notifier.states import Channel, Outcome, Told, Unreached

#: patients one act may name
MOST = 10_000
_AT_ONCE = 1000
#: a calendar may be so far before or behind UTC
_AHEAD = timedelta(hours=14)


class Marked(NamedTuple):
    """How many were marked, and how many were left because they stand elsewhere."""

    marked: int
    left: int


_MARK = text(
    f"""
    WITH named AS MATERIALIZED (
        SELECT id, doctor_id, outcome_reason FROM patient
        WHERE campaign_id = :campaign_id AND id = ANY(:patients) AND outcome = '{Outcome.UNREACHED}'
        ORDER BY id FOR UPDATE
    ), moved AS (
        UPDATE patient p SET outcome = '{Outcome.INFORMED}', outcome_reason = :how, outcome_at = :now
        FROM named WHERE p.id = named.id
    )
    INSERT INTO told (patient_id, doctor_id, how, day, reason_before, said_by)
    SELECT id, doctor_id, :how, :day, outcome_reason, :actor FROM named
    ON CONFLICT (patient_id) DO UPDATE
    SET how = excluded.how, day = excluded.day, reason_before = excluded.reason_before,
        said_by = excluded.said_by, said_at = now()
    RETURNING patient_id
    """  # noqa: S608 - put together from our own states
)
_TAKE_BACK = text(
    f"""
    WITH named AS MATERIALIZED (
        SELECT p.id, told.reason_before FROM told JOIN patient p ON p.id = told.patient_id
        WHERE p.campaign_id = :campaign_id AND p.id = ANY(:patients) AND p.outcome = '{Outcome.INFORMED}'
        ORDER BY p.id FOR UPDATE OF p
    ), gone AS (
        DELETE FROM told USING named WHERE told.patient_id = named.id
    )
    -- a message may have arrived meanwhile
    UPDATE patient p SET outcome = CASE WHEN reached.so THEN '{Outcome.INFORMED}' ELSE '{Outcome.UNREACHED}' END,
        outcome_reason = CASE WHEN NOT reached.so THEN named.reason_before END, outcome_at = :now
    FROM named CROSS JOIN LATERAL (
        SELECT EXISTS (
            SELECT FROM delivery_patient dp JOIN delivery d ON d.id = dp.delivery_id
            WHERE dp.patient_id = named.id AND {reaching.has_told("d")}
        ) AS so
    ) reached
    WHERE p.id = named.id
    RETURNING p.id
    """  # noqa: S608
)


def mark(
    session: Session,
    campaign_id: int,
    patients: Sequence[int],
    how: Told,
    day: date,
    *,
    actor: str,
    now: datetime,
) -> Marked:
    """Says that unreached patients were told in another way on this day; those who stand elsewhere are left.

    Raises NotFoundError; ConflictError before the campaign has started; InputError for a day that lies ahead or
    before the incident's campaign was made, or too many patients.
    """
    campaign = _campaign(session, campaign_id)
    if campaign.started_at is None and campaign.state != State.CANCELLED:
        raise ConflictError(f"Campaign {campaign_id} has not started: nobody is unreached yet.")
    # The day is the caller's own, wherever that is.
    first, last = (campaign.created_at - _AHEAD).date(), (now + _AHEAD).date()
    if not first <= day <= last:
        raise InputError(
            f"{day.isoformat()} cannot be the day: it is from {first.isoformat()}, when the campaign was made, to "
            "today."
        )
    ids = _ids(patients)
    values = {"campaign_id": campaign_id, "patients": ids, "how": how, "day": day, "actor": actor, "now": now}
    marked = len(session.execute(_MARK, values).all())
    detail = {"how": how, "day": day.isoformat(), "patients": marked}
    if marked:
        store.record(session, actor, "patients.told", f"campaign:{campaign_id}", campaign.doctor_id, detail)
    return Marked(marked, len(ids) - marked)


def take_back(session: Session, campaign_id: int, patients: Sequence[int], *, actor: str, now: datetime) -> Marked:
    """Undoes `mark` for these: they are unreached again, for the reason there was."""
    campaign = _campaign(session, campaign_id)
    ids = _ids(patients)
    values = {"campaign_id": campaign_id, "patients": ids, "now": now}
    moved = len(session.execute(_TAKE_BACK, values).all())
    detail = {"patients": moved}
    if moved:
        store.record(
            session, actor, "patients.told_taken_back", f"campaign:{campaign_id}", campaign.doctor_id, detail
        )
    return Marked(moved, len(ids) - moved)


def _campaign(session: Session, campaign_id: int) -> Campaign:
    campaign = session.get(Campaign, campaign_id)
    if campaign is None:
        raise NotFoundError(f"There is no campaign {campaign_id}.")
    return campaign


def _ids(patients: Sequence[int]) -> list[int]:
    ids = sorted(set(patients))
    if not ids or len(ids) > MOST:
        raise InputError(f"Name from 1 to {MOST:,} patients at once; these are {len(ids):,}.")
    return ids


# --- files for letters and calls -------------------------------------------------------------------------

_LETTER_HEADER = {
    "fr": ("n°", "ligne", "destinataire", *(f"adresse {n}" for n in (1, 2, 3, 4)), "code postal", "ville", "pays",
           "langue", "mineur", "raison"),
    "en": ("no.", "row", "addressee", *(f"address {n}" for n in (1, 2, 3, 4)), "postal code", "town", "country",
           "language", "minor", "reason"),
}  # fmt: skip
_CALL_HEADER = {
    "fr": ("n°", "ligne", "nom", "prénom", "date de naissance", "téléphones", "langue", "mineur", "raison"),
    "en": ("no.", "row", "last name", "first name", "birth date", "phones", "language", "minor", "reason"),
}
#: a minor's letter goes to whoever holds parental authority (French Civil Code, art. 371-1)
_PARENT = {"fr": "Aux représentants légaux de", "en": "To the parents or guardians of"}
_YES = {"fr": "oui", "en": "yes"}
REASONS: dict[str, dict[Unreached, str]] = {
    "fr": {
        Unreached.NO_CONTACT: "ni email ni mobile utilisable",
        Unreached.ALL_FAILED: "aucun contact n'a répondu",
        Unreached.CANCELLED: "envoi arrêté avant",
        Unreached.QUARANTINED: "mis de côté, l'assistance regarde",
    },
    "en": {
        Unreached.NO_CONTACT: "no usable email or mobile number",
        Unreached.ALL_FAILED: "no contact could be reached",
        Unreached.CANCELLED: "sending was stopped before",
        Unreached.QUARANTINED: "set aside, support is looking at it",
    },
}

_UNREACHED = text(
    f"""
    SELECT p.id, p.row, p.identity_sealed, p.has_postal, p.is_minor, p.language, p.outcome_reason,
           ARRAY(
               SELECT k.value_sealed FROM patient_contact pc JOIN contact k ON k.id = pc.contact_id
               WHERE pc.patient_id = p.id AND k.channel = '{Channel.SMS}' ORDER BY pc.rank
           ) AS numbers
    FROM patient p
    WHERE p.campaign_id = :campaign_id AND p.outcome = '{Outcome.UNREACHED}' AND p.id > :after
      AND (NOT :only_postal OR p.has_postal)
    ORDER BY p.id LIMIT :limit
    """  # noqa: S608
)


#: a file's pieces: the header first, then one for each person
Making = Callable[[Session, MasterKey, int, str], Iterator[bytes]]


def write(pieces: Iterator[bytes], path: Path) -> int:
    """Writes such a file for its owner alone, whole or not at all; returns how many people are in it."""
    people = -1
    with writing.whole_file(path) as out:
        for piece in pieces:
            out.write(piece)
            people += 1
    return people


def letters(session: Session, master: MasterKey, campaign_id: int, language: str) -> Iterator[bytes]:
    """A CSV for a mail merge: those unreached whose postal address is known, piece by piece.

    Lines as they stand in a window envelope (NF Z10-011): at most four of the address, then code and town.
    """
    yield writing.START + writing.line(_LETTER_HEADER[language])
    for row, identity, _ in _people(session, master, campaign_id, only_postal=True):
        name = " ".join(filter(None, (identity.first_name, identity.last_name)))
        lines = [*identity.address[:4], "", "", "", ""][:4]
        yield writing.line(
            (
                row.id, row.row, f"{_PARENT[language]} {name}" if row.is_minor else name, *lines,
                identity.postal_code, identity.town, identity.country,
                row.language, _YES[language] if row.is_minor else "", _reason(row.outcome_reason, language),
            )
        )  # fmt: skip


def calls(session: Session, master: MasterKey, campaign_id: int, language: str) -> Iterator[bytes]:
    """A CSV of those unreached who have a number to call, landlines included, piece by piece."""
    yield writing.START + writing.line(_CALL_HEADER[language])
    for row, identity, key in _people(session, master, campaign_id, only_postal=False):
        mobiles = [key.open(sealed, b"contact.value").decode() for sealed in row.numbers]
        numbers = list(dict.fromkeys([*identity.phones, *mobiles]))
        if numbers:
            yield writing.line(
                (
                    row.id, row.row, identity.last_name, identity.first_name, identity.birth_date,
                    " / ".join(numbers), row.language, _YES[language] if row.is_minor else "",
                    _reason(row.outcome_reason, language),
                )
            )  # fmt: skip


def _people(
    session: Session, master: MasterKey, campaign_id: int, *, only_postal: bool
) -> Iterator[tuple[Row[Any], Identity, DataKey]]:
    campaign = _campaign(session, campaign_id)
    if campaign.data_key is None:
        raise ConflictError(f"The people of campaign {campaign_id} have been erased: there is no list of them.")
    key = master.open_data_key(campaign.data_key, campaign_id)
    after = 0
    while True:
        values = {"campaign_id": campaign_id, "after": after, "only_postal": only_postal, "limit": _AT_ONCE}
        rows = session.execute(_UNREACHED, values).all()
        for row in rows:
            yield row, Identity.from_json(key.open(row.identity_sealed, b"patient.identity")), key
        if len(rows) < _AT_ONCE:
            return
        after = rows[-1].id


def _reason(reason: str | None, language: str) -> str:
    return REASONS[language][Unreached(reason)] if reason else ""
