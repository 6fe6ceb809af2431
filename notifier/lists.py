"""The acts of a person on a campaign's lists: look before anything is saved, import, report, corrections, doubts.

Stands beside `acts`, above the steps. What a doctor said about the columns of a list answers for the next list
with the same header; a look shows it before it is used.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import io
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, Literal

import orjson
from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from notifier import acts, approving, corrections, deciding, importing, store
from notifier.addresses import folded
from notifier.checking import domains_of, rows_of, rows_of_doctor
from notifier.corrections import Suggestion
from notifier.domains import Domains
from notifier.errors import ConflictError, ListError, NotFoundError
from notifier.importers import Limits, Question, RawList, Sheet, open_list
from notifier.importing import Difference
from notifier.judging import Setting, own_keys
from notifier.models import Campaign, Decision, Doctor, ListFile, ListMapping, Patient
from notifier.reporting import notes_of
from notifier.settings import Settings

#: so many remembered layouts of a doctor are tried, the newest first
_MOST_TRIED = 10


@dataclass(frozen=True, slots=True)
class Given:
    """What whoever hands a list in says about it."""

    filename: str | None = None
    #: header → meaning, or "ignore"
    mapping: Mapping[str, str] = field(default_factory=dict)
    sheet: str | None = None
    #: ask the DNS whether the domains take mail; None: as the settings say
    check_domains: bool | None = None
    #: it holds other doctors' patients as well: only those of the campaign's doctor are read
    of_several: bool = False


@dataclass(frozen=True, slots=True)
class ColumnLine:
    """How one column of a list is read."""

    header: str
    #: None: not read
    meaning: str | None
    #: by its name, by what was said now, by what was said of an earlier list; or it has to be asked about
    by: Literal["name", "given", "remembered", "asked"]
    #: what it could be, where it has to be asked about
    could_be: tuple[str, ...] = ()


@dataclass(slots=True)
class Look:
    """A list before it is imported; nothing is saved by looking."""

    format: str
    columns: list[ColumnLine]
    questions: list[Question]
    notes: list[dict[str, Any]]
    sheets: list[Sheet]
    sheet: str | None
    #: the campaign has taken a list before
    has_earlier: bool
    #: this very file is the campaign's newest list: importing it again changes nothing
    is_known: bool
    #: None while questions are open, or where it was not asked for
    difference: Difference | None
    #: hand it to `import_list`: it refuses if anything has changed since
    token: str


@dataclass(frozen=True, slots=True)
class Imported:
    """One import."""

    list_file: ListFile
    #: False: this very file is the campaign's newest list, nothing was changed
    is_new: bool
    columns: list[ColumnLine]
    notes: list[dict[str, Any]]


@dataclass(slots=True)
class Opened:
    """An open list of a campaign, with all that decides how it is read."""

    campaign_id: int
    reader: RawList
    doctor: Doctor
    setting: Setting
    #: what was said now and before
    mapping: dict[str, str]
    given: Given
    sheet: str | None

    @property
    def columns(self) -> list[ColumnLine]:
        said = {_plain(name) for name in self.given.mapping}
        known = {_plain(name) for name in self.mapping} - said
        lines = []
        for header in self.reader.headers:
            plain = _plain(header.key)
            by: Literal["name", "given", "remembered", "asked"] = "name"
            by = "given" if plain in said else "remembered" if plain in known else by
            by = "asked" if header.could_be else by
            if header.name or header.column:
                meaning = None if header.column is None else str(header.column)
                lines.append(ColumnLine(header.key, meaning, by, tuple(map(str, header.could_be))))
        return lines


def _plain(name: str) -> str:
    return folded(name) or name


def layout_of(reader: RawList) -> bytes | None:
    """What tells headers apart; None for a format without any. Our own column of corrections is left out."""
    if not reader.headers:
        return None
    names = [_plain(header.key) for header in reader.headers if not corrections.is_ours(header.name)]
    return hashlib.sha256("\0".join(names).encode(errors="replace")).digest()


# --- opening ----------------------------------------------------------------------------------------


@contextmanager
def opened(
    session: Session, settings: Settings, campaign_id: int, source: Path | BinaryIO, given: Given, *, now: datetime
) -> Iterator[Opened]:
    """Opens a list as the campaign's doctor's. Raises NotFoundError, or ListError for what is no list."""
    campaign = session.get(Campaign, campaign_id)
    if campaign is None:
        raise NotFoundError(f"There is no campaign {campaign_id}.")
    doctor = session.get_one(Doctor, campaign.doctor_id)
    limits = Limits(max_bytes=settings.max_list_bytes)
    wanted = rows_of_doctor((doctor.reference, doctor.name)) if given.of_several else None

    def open_with(mapping: Mapping[str, str], sheet: str | None) -> Any:
        return open_list(
            source,
            filename=given.filename,
            mapping=mapping,
            sheet=sheet,
            today=now.date(),
            limits=limits,
            wanted=wanted,
        )

    mapping, sheet = _remembered(session, doctor.id, given, open_with)
    with open_with(mapping, sheet) as reader:
        own = own_keys((doctor.phone, doctor.email), settings.default_region)
        setting = Setting(settings.default_region, now.date(), reader.names_people, own)
        if settings.check_mail_domains if given.check_domains is None else given.check_domains:
            setting = Setting(
                setting.region, setting.today, setting.names_people, own, _dead_domains(reader, setting)
            )
        yield Opened(campaign_id, reader, doctor, setting, mapping, given, sheet)


def _remembered(
    session: Session, doctor_id: int, given: Given, open_with: Callable[..., Any]
) -> tuple[dict[str, str], str | None]:
    """What was said before about a list with this header, under what is said now."""
    said = session.scalars(
        select(ListMapping)
        .where(ListMapping.doctor_id == doctor_id)
        .order_by(ListMapping.said_at.desc())
        .limit(_MOST_TRIED)
    ).all()
    for one in said:
        mapping, sheet = _over(one.mapping, given.mapping), given.sheet or one.sheet
        try:
            with open_with(mapping, sheet) as reader:
                if layout_of(reader) == one.layout:
                    return mapping, sheet
        except ListError:
            continue
    return dict(given.mapping), given.sheet


def _over(before: Mapping[str, str], now: Mapping[str, str]) -> dict[str, str]:
    said = {_plain(name) for name in now}
    return {name: value for name, value in before.items() if _plain(name) not in said} | dict(now)


@functools.cache
def _domains() -> Domains:
    """One memory of answers for the life of this process."""
    return Domains()


def _dead_domains(reader: RawList, setting: Setting) -> frozenset[str]:
    if reader.questions:
        return frozenset()
    return asyncio.run(_domains().dead(domains_of(rows_of(reader, setting))))


# --- looking and importing --------------------------------------------------------------------------


def look(
    session: Session,
    settings: Settings,
    campaign_id: int,
    source: Path | BinaryIO,
    given: Given,
    *,
    now: datetime,
    compare: Literal["always", "further", "never"] = "further",
    most: int = 1000,
    progress: Callable[[int], None] | None = None,
) -> Look:
    """What a list is and would change. The difference costs what an import does: `further` asks for it only
    where the campaign has a list already. Raises what an import raises, but for questions, which it answers with.

    Ends with the campaign locked, as an import does: commit or roll back before a person is asked.
    """
    with opened(session, settings, campaign_id, source, given, now=now) as this:
        reader = this.reader
        last, is_known = _earlier(session, campaign_id, reader)
        seen = Look(
            str(reader.format),
            this.columns,
            list(reader.questions),
            notes_of(reader),
            list(reader.sheets),
            reader.sheet,
            last > 0,
            is_known,
            None,
            _token(session, this, last),
        )
    wanted = compare == "always" or (compare == "further" and seen.has_earlier)
    if wanted and not seen.questions:
        campaign = session.get_one(Campaign, campaign_id)
        seen.difference = importing.compare_list(
            session,
            campaign,
            settings.master.open_data_key(campaign.data_key, campaign.id),
            source,
            region=settings.default_region,
            now=now,
            expected_doctor=(this.doctor.reference, this.doctor.name),
            of_several=given.of_several,
            own_contacts=(this.doctor.phone, this.doctor.email),
            dead_domains=this.setting.dead_domains,
            max_bytes=settings.max_list_bytes,
            most=most,
            progress=progress,
            filename=given.filename,
            mapping=this.mapping,
            sheet=this.sheet,
        )
    return seen


def _earlier(session: Session, campaign_id: int, reader: RawList) -> tuple[int, bool]:
    """The newest list of the campaign (0: none), and whether it is this file."""
    last = session.scalar(select(func.max(ListFile.id)).where(ListFile.campaign_id == campaign_id)) or 0
    return last, importing.newest(session, campaign_id, reader.sha256) is not None


def _token(session: Session, this: Opened, last: int) -> str:
    """Of the file, of how it is read, and of what it would be added to."""
    # Once sending has begun, an import writes to people, and before that it voids an approval: who looked before
    # must look again.
    now = select(Campaign.started_at.is_not(None), Campaign.notice_hash).where(Campaign.id == this.campaign_id)
    begun, approved = session.execute(now).one()
    read = [
        sorted(this.mapping.items()),
        this.sheet,
        this.given.of_several,
        last,
        this.campaign_id,
        begun,
        approved and approved.hex(),
    ]
    said = orjson.dumps(read)
    return hashlib.sha256(this.reader.sha256 + said).hexdigest()


def import_list(
    session: Session,
    settings: Settings,
    campaign_id: int,
    source: Path | BinaryIO,
    given: Given,
    *,
    actor: str,
    now: datetime,
    expected: str | None = None,
    progress: Callable[[int], None] | None = None,
) -> Imported:
    """As `acts.import_list`; remembers what was said about the columns for the doctor's next list.

    With `expected` (the token of a look) it raises ConflictError if the list, its mapping, the lists it is added
    to, or whether it is approved or started are not what was shown.
    """
    with opened(session, settings, campaign_id, source, given, now=now) as this:
        # From here on neither lists, approval nor start can change unseen.
        importing.lock(session, campaign_id)
        last, is_known = _earlier(session, campaign_id, this.reader)
        if expected is not None and expected != _token(session, this, last):
            raise ConflictError(
                "This is not what was shown: the file, its mapping, or the lists or state of the campaign have "
                "changed since. Look at it again."
            )
        columns, notes, layout = this.columns, notes_of(this.reader), layout_of(this.reader)
    list_file = acts.import_list(
        session,
        settings,
        campaign_id,
        source,
        actor=actor,
        now=now,
        progress=progress,
        filename=given.filename,
        mapping=this.mapping,
        sheet=this.sheet,
        of_several=given.of_several,
        dead_domains=this.setting.dead_domains,
    )
    if layout is not None and (this.mapping or this.sheet):
        _remember(session, this, layout, actor, now)
    return Imported(list_file, not is_known, columns, notes)


def _remember(session: Session, this: Opened, layout: bytes, actor: str, now: datetime) -> None:
    said = {"mapping": this.mapping, "sheet": this.sheet, "said_by": actor, "said_at": now}
    session.execute(
        insert(ListMapping)
        .values(doctor_id=this.doctor.id, layout=layout, **said)
        .on_conflict_do_update(index_elements=["doctor_id", "layout"], set_=said)
    )


# --- suggestions and doubts -------------------------------------------------------------------------


def accept(
    session: Session,
    settings: Settings,
    campaign_id: int,
    source: Path | BinaryIO,
    given: Given,
    *,
    rows: Collection[int] | None,
    actor: str,
    now: datetime,
) -> tuple[ListFile, list[Suggestion]]:
    """Imports the rows of a list with their suggestions accepted (`rows` None: all that mend a typing error).

    Only the email addresses of these people change. Raises ConflictError unless the list was imported before, or
    where a newer list has changed one of these people since: its contacts are not taken back by an older guess.
    Raises InputError for a row whose suggestion cannot be accepted.
    """
    with opened(session, settings, campaign_id, source, given, now=now) as this:
        importing.lock(session, campaign_id)
        known = session.scalar(
            select(func.max(ListFile.id)).where(
                ListFile.campaign_id == campaign_id, ListFile.sha256 == this.reader.sha256
            )
        )
        if known is None:
            raise ConflictError("This list was not imported into this campaign: import it first.")
        accepted = corrections.accept(this.reader, this.setting, rows)
        _refuse_older(session, settings, this, known, accepted, now)
    list_file = acts.import_list(
        session,
        settings,
        campaign_id,
        io.BytesIO(accepted.content),
        actor=actor,
        now=now,
        mapping=_of_columns(this),
        dead_domains=this.setting.dead_domains,
        accepted_of=known,
    )
    detail = {"list": known, "rows": [one.row for one in accepted.suggestions][:1000]}
    store.record(session, actor, "suggestion.accept", f"campaign:{campaign_id}", this.doctor.id, detail)
    return list_file, accepted.suggestions


def _refuse_older(
    session: Session, settings: Settings, this: Opened, known: int, accepted: corrections.Accepted, now: datetime
) -> None:
    campaign = session.get_one(Campaign, this.campaign_id)
    newer = select(func.count()).where(ListFile.campaign_id == campaign.id, ListFile.id > known)
    if not session.scalar(newer):
        return
    difference = importing.compare_list(
        session,
        campaign,
        settings.master.open_data_key(campaign.data_key, campaign.id),
        io.BytesIO(accepted.content),
        region=settings.default_region,
        now=now,
        most=len(accepted.suggestions),
        mapping=_of_columns(this),
        dead_domains=this.setting.dead_domains,
    )
    changed = [one.patient_id for one in difference.changed_rows]
    if session.scalar(select(func.count()).where(Patient.id.in_(changed), Patient.changed_in > known)):
        raise ConflictError(
            "A newer list has changed people whom these suggestions are for: take those of the newest list."
        )


def _of_columns(this: Opened) -> dict[str, str]:
    """The mapping, for the columns that the accepted rows are written with."""
    names = {header.key: header.name for header in this.reader.headers}
    kept = {_plain(name) for name, key in names.items() if name == key}
    return {name: value for name, value in this.mapping.items() if _plain(name) in kept}


def decide(
    session: Session, problem_id: int, *, is_same: bool, other_id: int | None, actor: str, now: datetime
) -> Decision:
    """As `deciding.decide`; a change of who is told voids an approval, because the approver did not see it."""
    campaign, decision = deciding.decide(
        session, problem_id, is_same=is_same, other_id=other_id, actor=actor, now=now
    )
    if decision.decided_at == now:
        if campaign.state in ("ready", "approved"):
            approving.void_approval(session, campaign, actor=actor, reason="two patients were joined or parted")
        detail = {"other": decision.other_id, "same": is_same}
        store.record(session, actor, "doubt.decide", f"patient:{decision.patient_id}", campaign.doctor_id, detail)
    return decision
