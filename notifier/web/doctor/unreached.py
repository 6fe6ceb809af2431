"""Those no message reached: why, letters and calls, and saying that it was done."""

from __future__ import annotations

import hashlib
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, Row, func, select
from sqlalchemy.orm import Session
from starlette.background import BackgroundTask
from starlette.responses import FileResponse, Response

from notifier import store, telling
from notifier.accounts import DOCTORS
from notifier.errors import ConflictError, InputError, NotFoundError
from notifier.models import Campaign, Patient, PatientTally, Told
from notifier.states import Outcome, Unreached
from notifier.states import Told as How
from notifier.web.doctor.common import (
    BEFORE_START,
    PAGE,
    Words,
    after_of,
    campaign_of,
    choice,
    cut,
    data_key,
    named,
    page,
    whole,
)
from notifier.web.pages import Pages, Visit

pages = Pages()

_PATH = "/doctor/campaigns/{campaign_id:int}/unreached"
#: "told": those whom somebody told by letter, call or at the practice
SHOWN = ("unreached", "told")


@pages.get(_PATH, allow=DOCTORS)
def unreached(visit: Visit) -> Response:
    with visit.transaction() as session:
        return _page(visit, session, campaign_of(visit, session))


def _page(visit: Visit, session: Session, campaign: Campaign, status: int = 200, wrong: str = "") -> Response:
    which = choice(visit, "which", SHOWN, "unreached")
    reason = choice(visit, "reason", [*map(str, Unreached)], "")
    post = choice(visit, "post", ["yes"], "")
    after = after_of(visit)
    statement = select(Patient).where(Patient.id > after)
    if which == "told":
        statement = statement.join(Told, Told.patient_id == Patient.id).where(
            Patient.campaign_id == campaign.id, Patient.outcome == Outcome.INFORMED
        )
    else:
        statement = statement.where(*_selection(visit, campaign))
    people, has_more = cut(session.scalars(statement.order_by(Patient.id).limit(PAGE + 1)).all())
    all_ = _all(visit, session, campaign)
    counts = store.patient_counts(
        session, campaign.id, PatientTally.outcome, PatientTally.reason, PatientTally.has_postal
    )
    unreached = [row for row in counts if row.outcome == Outcome.UNREACHED and row.n]
    told = session.scalars(select(Told).where(Told.patient_id.in_([one.id for one in people])))
    return page(
        visit,
        "unreached.html",
        campaign,
        status,
        which=which,
        reason=reason,
        post=post,
        after=after,
        people=people,
        has_more=has_more,
        names=named(data_key(visit, campaign), people),
        told={one.patient_id: one for one in told},
        reasons=_reasons(unreached),
        selected=len(all_),
        shown=_digest(all_),
        postable=sum(row.n for row in unreached if row.has_postal),
        without_post=sum(
            row.n for row in unreached if not (row.has_postal or post) and reason in ("", row.reason)
        ),
        told_count=session.scalar(
            select(func.count())
            .select_from(Told)
            .join(Patient, Patient.id == Told.patient_id)
            .where(Patient.campaign_id == campaign.id, Patient.outcome == Outcome.INFORMED)
        ),
        hows=list(How),
        today=visit.now.astimezone(visit.site.zone).date(),
        first_day=campaign.created_at.astimezone(visit.site.zone).date(),
        is_before=campaign.state in BEFORE_START,
        wrong=wrong,
    )


def _reasons(unreached: Iterable[Row[*tuple[Any, ...]]]) -> dict[str, int]:
    """How many for each reason, the most frequent first."""
    found: Counter[str] = Counter()
    for row in unreached:
        found[row.reason or Unreached.ALL_FAILED] += row.n
    return dict(found.most_common())


# --- saying that it was done -----------------------------------------------------------------------------


@pages.post(f"{_PATH}/tell", allow=DOCTORS)
def tell(visit: Visit) -> Response:
    """Of those ticked, or of all whom the address's filter shows."""
    how = next((one for one in How if one == visit.text("how")), None)
    try:
        day = date.fromisoformat(visit.text("day"))
    except ValueError:
        day = None
    with visit.transaction() as session:
        campaign = campaign_of(visit, session)
        if visit.text("who") == "all" and visit.text("sure") != "yes":
            return _page(visit, session, campaign, 422, visit.say("doctor.unreached_sure"))
        patients = _named(visit, session, campaign)
        if visit.text("who") == "all" and _digest(patients) != visit.text("shown"):
            # Nobody is marked whom the page did not show.
            return _page(visit, session, campaign, 409, visit.say("doctor.unreached_changed"))
        if how is None or day is None or not patients:
            wrong = "unreached_nobody" if not patients else "unreached_how"
            return _page(visit, session, campaign, 422, visit.say(f"doctor.{wrong}"))
        try:
            with session.begin_nested():
                marked = sum(
                    telling.mark(session, campaign.id, some, how, day, actor=visit.actor, now=visit.now).marked
                    for some in _parts(patients)
                )
        except InputError:
            words = Words(visit)
            said = visit.say(
                "doctor.unreached_day", first=words.day(campaign.created_at), last=words.day(visit.now)
            )
            return _page(visit, session, campaign, 422, said)
        except ConflictError:
            return _page(visit, session, campaign, 409, visit.say("doctor.unreached_before"))
        if not marked:
            return _page(visit, session, campaign, 409, visit.say("doctor.unreached_changed"))
    here, left = f"/doctor/campaigns/{campaign.id}/unreached", len(set(patients)) - marked
    if left:
        return visit.redirect(here, "doctor.unreached_marked_some", marked, left)
    return visit.redirect(here, said="doctor.unreached_marked")


@pages.post(f"{_PATH}/take-back", allow=DOCTORS)
def take_back(visit: Visit) -> Response:
    with visit.transaction() as session:
        campaign = campaign_of(visit, session)
        patients = _ticked(visit)
        if not patients:
            return _page(visit, session, campaign, 422, visit.say("doctor.unreached_nobody"))
        back = telling.take_back(session, campaign.id, patients, actor=visit.actor, now=visit.now)
        if not back.marked:
            return _page(visit, session, campaign, 409, visit.say("doctor.unreached_changed"))
    there = f"/doctor/campaigns/{campaign.id}/unreached?which=told"
    if back.left:
        return visit.redirect(there, "doctor.unreached_taken_back_some", back.marked, back.left)
    return visit.redirect(there, said="doctor.unreached_taken_back")


def _ticked(visit: Visit) -> list[int]:
    return [whole(value) for value in visit.form.getlist("patient") if isinstance(value, str)]


def _named(visit: Visit, session: Session, campaign: Campaign) -> list[int]:
    if visit.text("who") != "all":
        return _ticked(visit)
    return _all(visit, session, campaign)


def _all(visit: Visit, session: Session, campaign: Campaign) -> list[int]:
    return list(session.scalars(select(Patient.id).where(*_selection(visit, campaign)).order_by(Patient.id)))


def _digest(patients: list[int]) -> str:
    """Tells whether a selection is still the one that was shown."""
    return hashlib.sha256(",".join(map(str, patients)).encode()).hexdigest()


def _selection(visit: Visit, campaign: Campaign) -> list[ColumnElement[bool]]:
    """Those unreached whom the address's filter shows."""
    reason = choice(visit, "reason", [*map(str, Unreached)], "")
    conditions: list[ColumnElement[bool]] = [
        Patient.campaign_id == campaign.id,
        Patient.outcome == Outcome.UNREACHED,
    ]
    if reason:
        conditions.append(Patient.outcome_reason == reason)
    if choice(visit, "post", ["yes"], ""):
        conditions.append(Patient.has_postal.is_(True))
    return conditions


def _parts(patients: list[int]) -> Iterator[list[int]]:
    for start in range(0, len(patients), telling.MOST):
        yield patients[start : start + telling.MOST]


# --- files ------------------------------------------------------------------------------------------------


@pages.get(f"{_PATH}/letters.csv", allow=DOCTORS)
def letters(visit: Visit) -> Response:
    return _file(visit, telling.letters, "doctor.file_letters")


@pages.get(f"{_PATH}/calls.csv", allow=DOCTORS)
def calls(visit: Visit) -> Response:
    return _file(visit, telling.calls, "doctor.file_calls")


def _file(visit: Visit, making: telling.Making, name: str) -> Response:
    """Made whole before a byte of it goes out, so that an error is a page and no half list."""
    with visit.transaction() as session:
        campaign = campaign_of(visit, session)
        if campaign.data_key is None:
            raise NotFoundError("The people were erased.")
        pieces = making(session, visit.site.settings.master, campaign.id, visit.language)
        folder = tempfile.TemporaryDirectory(prefix="pn-list-")
        try:
            path = Path(folder.name) / "list.csv"
            telling.write(pieces, path)
        except BaseException:
            folder.cleanup()
            raise
    return FileResponse(
        path,
        media_type="text/csv; charset=utf-8",
        filename=f"{visit.say(name)}-{campaign.id}.csv",
        background=BackgroundTask(folder.cleanup),
    )
