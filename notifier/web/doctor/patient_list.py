"""My list: sent, looked at, confirmed; then its report, corrections, suggestions and doubts.

Nothing is imported before the doctor has seen how each column is read and what would change.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session
from starlette.background import BackgroundTask
from starlette.responses import FileResponse, Response

from notifier import corrections, deciding, importing, lists, sentences
from notifier.accounts import DOCTORS
from notifier.errors import ConflictError, InputError, ListError, NotFoundError
from notifier.importers import Column
from notifier.importers.columns import CONTACTS
from notifier.lists import Look, Opened
from notifier.models import Campaign, ListFile, ListProblem, ListUpload, Patient
from notifier.states import Campaign as State
from notifier.web import uploads
from notifier.web.doctor.common import (
    BEFORE_START,
    DECIDES,
    PAGE,
    after_of,
    born_on,
    campaign_of,
    cut,
    data_key,
    identity_of,
    name_of,
    named,
    page,
    whole,
)
from notifier.web.pages import Pages, Visit
from notifier.web.uploads import Upload

pages = Pages()

_PATH = "/doctor/campaigns/{campaign_id:int}/list"
_UPLOAD = _PATH + "/uploads/{upload_id:int}"
_LIST = _PATH + "/{list_id:int}"
_IGNORE = "ignore"
_LONGEST_NAME = 200
#: rows of a difference that are named
_NAMED = 50
#: doubts are counted in rounds of so many, and no further
_ROUND, _MOST_ROUNDS = 500, 10


# --- the lists so far, and a new one -------------------------------------------------------------------------


@pages.get(_PATH, allow=DOCTORS)
def the_lists(visit: Visit) -> Response:
    with visit.site.database.staff() as session:
        uploads.tidy(session, now=visit.now)
    with visit.transaction() as session:
        return _lists_page(visit, session, campaign_of(visit, session))


def _lists_page(
    visit: Visit, session: Session, campaign: Campaign, status: int = 200, wrong: str = ""
) -> Response:
    found = session.scalars(
        select(ListFile).where(ListFile.campaign_id == campaign.id).order_by(ListFile.id.desc())
    ).all()
    is_open = campaign.state != State.CANCELLED and campaign.data_key is not None
    waiting = session.scalars(
        select(ListUpload.id)
        .where(ListUpload.campaign_id == campaign.id, ListUpload.list_file_id.is_(None))
        .order_by(ListUpload.id.desc())
    ).all()
    return page(
        visit,
        "lists.html",
        campaign,
        status,
        lists=found,
        waiting=waiting if is_open else (),
        doubts=_open_doubts(session, campaign.id),
        is_open=is_open,
        is_started=campaign.started_at is not None,
        is_not_theirs=_is_not_theirs(visit, campaign),
        most_mb=uploads.MOST_BYTES // 2**20,
        wrong=visit.say(wrong) if wrong else "",
    )


@pages.post(_PATH, allow=DOCTORS)
def upload(visit: Visit) -> Response:
    """Keeps the file and goes on to the look at it."""
    file = visit.upload("file")
    with visit.transaction() as session:
        campaign = campaign_of(visit, session)
        if file is None or not file.size:
            return _lists_page(visit, session, campaign, 422, "doctor.list_no_file")
        if file.size > uploads.MOST_BYTES:
            return _lists_page(visit, session, campaign, 413, "doctor.list_too_large")
        if campaign.state == State.CANCELLED or campaign.data_key is None:
            return _lists_page(visit, session, campaign, 409, "doctor.list_closed")
        made = uploads.keep(
            session, visit.site.settings.master, campaign, file.file.read(), file.filename or "", now=visit.now
        )
        return visit.redirect(f"/doctor/campaigns/{campaign.id}/list/uploads/{made.id}")


# --- the look ----------------------------------------------------------------------------------------------


@pages.get(_UPLOAD, allow=DOCTORS)
def look(visit: Visit) -> Response:
    with visit.transaction() as session:
        campaign = campaign_of(visit, session)
        return _look_page(visit, session, campaign, _kept(visit, session, campaign))


def _kept(visit: Visit, session: Session, campaign: Campaign) -> Upload:
    return uploads.find(session, visit.site.settings.master, campaign, visit.number("upload_id"), now=visit.now)


def _is_not_theirs(visit: Visit, campaign: Campaign) -> bool:
    """Once sending has begun, what changes the list writes to people: that is the doctor's to decide."""
    return campaign.started_at is not None and visit.standing not in DECIDES


def _may_not_act(visit: Visit, session: Session, campaign: Campaign) -> bool:
    """The same for an act: what is answered stays so until it is done. Takes the locks in an import's order."""
    if visit.standing in DECIDES or campaign.state == State.CANCELLED:
        return False
    return importing.lock(session, campaign.id)


def _look_page(
    visit: Visit, session: Session, campaign: Campaign, kept: Upload, status: int = 200, wrong: str = ""
) -> Response:
    known = kept.row.list_file_id
    try:
        with session.begin_nested() as nested:
            seen = lists.look(
                session,
                visit.site.settings,
                campaign.id,
                kept.source,
                kept.given,
                now=visit.now,
                compare="always",
                most=_NAMED,
            )
            nested.rollback()
    except ListError as error:
        return _unreadable(visit, campaign, kept, error)
    except ConflictError:
        return _lists_page(visit, session, campaign, 409, "doctor.list_closed")
    asked = [(index, line) for index, line in enumerate(seen.columns) if line.by == "asked"]
    return page(
        visit,
        "look.html",
        campaign,
        status,
        upload=kept,
        seen=seen,
        asked=asked,
        others=[(index, line) for index, line in enumerate(seen.columns) if line.by != "asked"],
        read=sum(line.meaning is not None for line in seen.columns),
        questions={one.subject: one.french if visit.language == "fr" else one.english for one in seen.questions},
        meanings=list(Column),
        notes=_notes(visit, seen),
        known=known or _same_file(session, campaign, seen),
        is_started=campaign.started_at is not None,
        is_approved=campaign.state == State.APPROVED,
        is_not_theirs=_is_not_theirs(visit, campaign),
        wrong=visit.say(wrong) if wrong else "",
    )


def _unreadable(visit: Visit, campaign: Campaign, kept: Upload, error: ListError) -> Response:
    detail = error.in_language(visit.language)
    return page(visit, "list_unreadable.html", campaign, 422, upload=kept, detail=detail)


def _same_file(session: Session, campaign: Campaign, seen: Look) -> int | None:
    """The newest list, where it is this very file."""
    if not seen.is_known:
        return None
    return session.scalar(select(func.max(ListFile.id)).where(ListFile.campaign_id == campaign.id))


def _notes(visit: Visit, seen: Look) -> list[str]:
    return [str(note[visit.language]) for note in seen.notes]


@pages.post(_UPLOAD, allow=DOCTORS)
def say_columns(visit: Visit) -> Response:
    """Keeps what was said about columns and sheet, and looks again."""
    with visit.transaction() as session:
        campaign = campaign_of(visit, session)
        kept = _kept(visit, session, campaign)
        sheet = visit.text("sheet")
        if sheet and sheet != kept.said.sheet:
            kept.said.sheet, kept.said.mapping = sheet, {}
        else:
            kept.said.mapping |= _said(visit)
        uploads.save(session, visit.site.settings.master, campaign, kept)
        return visit.redirect(f"/doctor/campaigns/{campaign.id}/list/uploads/{kept.row.id}")


def _said(visit: Visit) -> dict[str, str]:
    """The answers that differ from what was shown, by header."""
    said: dict[str, str] = {}
    known = {_IGNORE, *map(str, Column)}
    for name, header in visit.form.items():
        if not name.startswith("header_"):
            continue
        index = name.removeprefix("header_")
        answer = visit.text(f"meaning_{index}")
        if isinstance(header, str) and answer in known and answer != visit.text(f"shown_{index}"):
            said[header] = answer
    # Where no column was taken for one of contacts the file could not be opened, and the doctor names it.
    return said | {
        name: str(column) for column in CONTACTS if (name := visit.text(f"column_{column}")[:_LONGEST_NAME])
    }


@pages.post(_UPLOAD + "/import", allow=DOCTORS)
def import_list(visit: Visit) -> Response:
    """What was shown, or nothing."""
    with visit.transaction() as session:
        campaign = campaign_of(visit, session)
        kept = _kept(visit, session, campaign)
        if _may_not_act(visit, session, campaign):
            return _look_page(visit, session, campaign, kept, 403, "doctor.list_doctor_only")
        try:
            with session.begin_nested():
                imported = lists.import_list(
                    session,
                    visit.site.settings,
                    campaign.id,
                    kept.source,
                    kept.given,
                    actor=visit.actor,
                    now=visit.now,
                    expected=visit.text("token"),
                )
        except ListError as error:
            return _unreadable(visit, campaign, kept, error)
        except ConflictError:
            session.refresh(campaign)
            wrong = "doctor.list_text_missing" if campaign.started_at else "doctor.list_changed"
            return _look_page(visit, session, campaign, kept, 409, wrong)
        kept.row.list_file_id = imported.list_file.id
        with _opened(visit, session, campaign, kept) as this:
            kept.said.suggested = sorted({one.row for one in corrections.suggestions(this.reader, this.setting)})
        uploads.save(session, visit.site.settings.master, campaign, kept)
        said = "doctor.list_imported" if imported.is_new else "doctor.list_known"
        return visit.redirect(f"/doctor/campaigns/{campaign.id}/list/{imported.list_file.id}", said=said)


@pages.post(_UPLOAD + "/discard", allow=DOCTORS)
def discard(visit: Visit) -> Response:
    with visit.transaction() as session:
        campaign = campaign_of(visit, session)
        uploads.discard(session, campaign, visit.number("upload_id"))
    return visit.redirect(f"/doctor/campaigns/{campaign.id}/list", said="doctor.list_discarded")


# --- the report ----------------------------------------------------------------------------------------------


def _list_of(visit: Visit, session: Session, campaign: Campaign) -> ListFile:
    found = session.get(ListFile, visit.number("list_id"))
    if found is None or found.campaign_id != campaign.id:
        raise NotFoundError("There is no such list.")
    return found


@pages.get(_LIST, allow=DOCTORS)
def report(visit: Visit) -> Response:
    with visit.transaction() as session:
        campaign = campaign_of(visit, session)
        found = _list_of(visit, session, campaign)
        kinds = session.execute(
            select(ListProblem.reason, func.count(func.distinct(ListProblem.row)).label("rows"))
            .where(ListProblem.list_file_id == found.id)
            .group_by(ListProblem.reason)
            .order_by(text("rows DESC"), ListProblem.reason)
        ).all()
        kept = uploads.of_list(session, visit.site.settings.master, campaign, found.id, now=visit.now)
        return page(
            visit,
            "report.html",
            campaign,
            list=found,
            kinds=[(reason, rows, sentences.in_language(reason, visit.language)) for reason, rows in kinds],
            kept=kept,
            kept_until=kept.row.at + uploads.KEEP if kept else None,
            suggested=len(kept.said.waiting) if kept else 0,
            doubts=_open_doubts(session, campaign.id),
        )


_ROWS = text(
    """
    SELECT problem.row, problem.columns, patient.id AS patient_id
    FROM (
        SELECT row, array_agg(DISTINCT "column" ORDER BY "column") AS columns FROM list_problem
        WHERE list_file_id = :list_id AND reason = :reason AND row > :after
        GROUP BY row ORDER BY row LIMIT :limit
    ) problem
    LEFT JOIN LATERAL (
        SELECT id FROM patient WHERE list_file_id = :list_id AND campaign_id = :campaign_id
          AND patient.row = problem.row LIMIT 1
    ) patient ON true
    ORDER BY problem.row
    """
)


@pages.get(_LIST + "/rows", allow=DOCTORS)
def rows(visit: Visit) -> Response:
    """The rows with one kind of problem, with who it is where the row made a patient."""
    reason, after = visit.request.query_params.get("reason", ""), after_of(visit)
    with visit.transaction() as session:
        campaign = campaign_of(visit, session)
        found = _list_of(visit, session, campaign)
        values = {
            "list_id": found.id,
            "campaign_id": campaign.id,
            "reason": reason,
            "after": min(after, 2**31 - 1),
        }
        shown, has_more = cut(session.execute(_ROWS, values | {"limit": PAGE + 1}).all())
        if not shown and not after:
            raise NotFoundError("There is no such problem in this list.")
        ids = [row.patient_id for row in shown if row.patient_id]
        patients = session.scalars(select(Patient).where(Patient.id.in_(ids))).all()
        return page(
            visit,
            "rows.html",
            campaign,
            list=found,
            reason=reason,
            sentence=sentences.in_language(reason, visit.language),
            rows=shown,
            names=named(data_key(visit, campaign), patients),
            has_more=has_more,
            after=after,
            columns=set(map(str, Column)),
        )


# --- corrections and suggestions -------------------------------------------------------------------------------


def _file_of(visit: Visit, session: Session, campaign: Campaign) -> tuple[ListFile, Upload]:
    """Raises NotFoundError once the file is not kept any more."""
    found = _list_of(visit, session, campaign)
    kept = uploads.of_list(session, visit.site.settings.master, campaign, found.id, now=visit.now)
    if kept is None:
        raise NotFoundError("The file of this list is not kept any more.")
    return found, kept


@contextmanager
def _opened(visit: Visit, session: Session, campaign: Campaign, kept: Upload) -> Iterator[Opened]:
    with lists.opened(session, visit.site.settings, campaign.id, kept.source, kept.given, now=visit.now) as this:
        yield this


@pages.get(_LIST + "/corrections.csv", allow=DOCTORS)
def correct(visit: Visit) -> Response:
    """The rows to correct, as a list that can be sent again. Made whole before a byte goes out."""
    with visit.transaction() as session:
        campaign = campaign_of(visit, session)
        _, kept = _file_of(visit, session, campaign)
        folder = tempfile.TemporaryDirectory(prefix="pn-list-")
        try:
            path = Path(folder.name) / "corrections.csv"
            with _opened(visit, session, campaign, kept) as this, path.open("wb") as out:
                for piece in corrections.Corrections(this.reader, this.setting, visit.language):
                    out.write(piece)
        except BaseException:
            folder.cleanup()
            raise
    return FileResponse(
        path,
        media_type="text/csv; charset=utf-8",
        filename=f"{visit.say('doctor.file_corrections')}-{campaign.id}.csv",
        background=BackgroundTask(folder.cleanup),
    )


def _suggestions(visit: Visit, session: Session, campaign: Campaign, kept: Upload) -> list[corrections.Suggestion]:
    """Those not accepted yet."""
    with _opened(visit, session, campaign, kept) as this:
        found = corrections.suggestions(this.reader, this.setting)
        return [one for one in found if one.row not in set(kept.said.accepted)]


@pages.get(_LIST + "/suggestions", allow=DOCTORS)
def suggest(visit: Visit) -> Response:
    with visit.transaction() as session:
        return _suggestions_page(visit, session, campaign_of(visit, session))


def _suggestions_page(
    visit: Visit, session: Session, campaign: Campaign, status: int = 200, wrong: str = ""
) -> Response:
    found, kept = _file_of(visit, session, campaign)
    after = after_of(visit)
    waiting = [one for one in _suggestions(visit, session, campaign, kept) if one.row > after]
    # A row stands on one page whole: its suggestions are accepted together.
    numbers, has_more = cut(list(dict.fromkeys(one.row for one in waiting)))
    by_row = {number: [one for one in waiting if one.row == number] for number in numbers}
    return page(
        visit,
        "suggestions.html",
        campaign,
        status,
        list=found,
        by_row=by_row,
        names=_names_of_rows(visit, session, campaign, found, list(numbers)),
        has_more=has_more,
        after=after,
        last=numbers[-1] if numbers else 0,
        wrong=visit.say(wrong) if wrong else "",
    )


def _names_of_rows(
    visit: Visit, session: Session, campaign: Campaign, found: ListFile, numbers: list[int]
) -> dict[int, str]:
    key = data_key(visit, campaign)
    patients = session.scalars(
        select(Patient).where(
            Patient.list_file_id == found.id, Patient.campaign_id == campaign.id, Patient.row.in_(numbers)
        )
    )
    return {patient.row: name_of(identity_of(key, patient)) for patient in patients}


@pages.post(_LIST + "/suggestions", allow=DOCTORS)
def accept(visit: Visit) -> Response:
    """Takes the suggested addresses of the rows ticked; nothing else of these people changes."""
    ticked = {whole(value) for value in visit.form.getlist("row") if isinstance(value, str)}
    with visit.transaction() as session:
        campaign = campaign_of(visit, session)
        _, kept = _file_of(visit, session, campaign)
        if _may_not_act(visit, session, campaign):
            return _suggestions_page(visit, session, campaign, 403, "doctor.list_doctor_only")
        if not ticked:
            return _suggestions_page(visit, session, campaign, 422, "doctor.suggest_none")
        try:
            with session.begin_nested():
                taken, _ = lists.accept(
                    session,
                    visit.site.settings,
                    campaign.id,
                    kept.source,
                    kept.given,
                    rows=ticked,
                    actor=visit.actor,
                    now=visit.now,
                )
        except InputError:
            return _suggestions_page(visit, session, campaign, 422, "doctor.suggest_wrong")
        except ConflictError:
            return _suggestions_page(visit, session, campaign, 409, "doctor.suggest_not_now")
        kept.said.accepted = sorted({*kept.said.accepted, *ticked})
        uploads.save(session, visit.site.settings.master, campaign, kept)
        return visit.redirect(f"/doctor/campaigns/{campaign.id}/list/{taken.id}", said="doctor.suggest_taken")


# --- doubts ---------------------------------------------------------------------------------------------------


def _open_doubts(session: Session, campaign_id: int) -> int:
    """How many nobody has decided about; of very many the first are counted."""
    n = after = 0
    for _ in range(_MOST_ROUNDS):
        found = deciding.pairs(session, campaign_id, after=after, limit=_ROUND)
        n += sum(bool(pair.others) for pair in found)
        if len(found) < _ROUND:
            break
        after = found[-1].id
    return n


@pages.get(_PATH + "/doubts", allow=DOCTORS)
def doubts(visit: Visit) -> Response:
    with visit.transaction() as session:
        return _doubts_page(visit, session, campaign_of(visit, session))


def _doubts_page(
    visit: Visit, session: Session, campaign: Campaign, status: int = 200, wrong: str = ""
) -> Response:
    after = after_of(visit)
    found, has_more = cut(deciding.pairs(session, campaign.id, after=after, limit=PAGE + 1))
    key = data_key(visit, campaign)
    ids = {one for pair in found for one in (pair.mine.patient, *(p.patient for p in pair.others), *pair.decided)}
    patients = session.scalars(select(Patient).where(Patient.id.in_(ids))).all()
    return page(
        visit,
        "doubts.html",
        campaign,
        status,
        pairs=found,
        rows={patient.id: patient.row for patient in patients},
        names=named(key, patients),
        born={patient.id: born_on(identity_of(key, patient)) for patient in patients},
        has_more=has_more,
        after=after,
        is_before=campaign.state in BEFORE_START,
        wrong=visit.say(wrong) if wrong else "",
    )


@pages.post(_PATH + "/doubts/{doubt_id:int}", allow=DOCTORS)
def decide(visit: Visit) -> Response:
    other, answer = whole(visit.text("other")), visit.text("answer")
    with visit.transaction() as session:
        campaign = campaign_of(visit, session)
        doubt_id = visit.number("doubt_id")
        problem = session.get(ListProblem, doubt_id)
        found = session.get(ListFile, problem.list_file_id) if problem else None
        if found is None or found.campaign_id != campaign.id or answer not in ("same", "two"):
            raise NotFoundError("There is no such doubt.")
        if _may_not_act(visit, session, campaign):
            return _doubts_page(visit, session, campaign, 403, "doctor.list_doctor_only")
        try:
            with session.begin_nested():
                lists.decide(
                    session, doubt_id, is_same=answer == "same", other_id=other, actor=visit.actor, now=visit.now
                )
        except InputError as error:
            raise NotFoundError("There is no such doubt any more.") from error
        except ConflictError:
            return _doubts_page(visit, session, campaign, 409, "doctor.doubt_not_now")
    return visit.redirect(f"/doctor/campaigns/{campaign.id}/list/doubts", said="doctor.doubt_decided")
