"""Doubtful pairs of an import: who they are, and what a person says about them. Numbers only, never a name.

Two people who turn out to be one are told once: one of them is excluded, and its contacts are tried after the
other's. Until sending begins it can be taken back.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import BigInteger, delete, func, literal, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from notifier import states
from notifier.errors import ConflictError, InputError, NotFoundError
from notifier.judging import RowReason
from notifier.models import Campaign, Decision, ListFile, ListProblem, Patient, PatientContact
from notifier.states import Exclusion, Outcome, Unreached, Variant

#: reasons of a row that name a pair
REASONS = (RowReason.SAME_ID, RowReason.POSSIBLE_DOUBLE)
_BEFORE_START = (states.Campaign.DRAFT, states.Campaign.READY, states.Campaign.APPROVED)
#: contacts of the person who is told from this rank on are the other's; an import numbers them anew
_OTHERS_RANK = 1000


class Place(NamedTuple):
    """A patient, and the row that named them first."""

    patient: int
    list_file: int
    row: int


@dataclass(frozen=True, slots=True)
class Pair:
    """A patient who may be the same person as others."""

    #: the number of the doubt
    id: int
    reason: str
    mine: Place
    #: not yet decided about
    others: tuple[Place, ...]
    #: of those decided: patient → whether it is the same person
    decided: dict[int, bool]


def pairs(session: Session, campaign_id: int, *, after: int = 0, limit: int = 200) -> list[Pair]:
    """The pairs of a campaign in doubt, those decided too, by the number of the doubt."""
    found = session.execute(
        select(ListProblem.id, ListProblem.reason, Patient)
        .join(ListFile, ListFile.id == ListProblem.list_file_id)
        .join(
            Patient,
            (Patient.list_file_id == ListProblem.list_file_id)
            & (Patient.row == ListProblem.row)
            & (Patient.campaign_id == ListFile.campaign_id),
        )
        .where(ListFile.campaign_id == campaign_id, ListProblem.reason.in_(REASONS), ListProblem.id > after)
        .order_by(ListProblem.id)
        .limit(limit)
    ).all()
    twins = _twins(session, campaign_id, [patient for _, _, patient in found])
    decided: dict[int, dict[int, bool]] = {}
    for one in session.scalars(select(Decision).where(Decision.problem_id.in_([row[0] for row in found]))):
        decided.setdefault(one.problem_id, {})[one.other_id] = one.is_same
    return [
        Pair(
            id_,
            reason,
            _place(patient),
            tuple(_place(twin) for twin in twins[patient.id] if twin.id not in decided.get(id_, {})),
            decided.get(id_, {}),
        )
        for id_, reason, patient in found
    ]


def _place(patient: Patient) -> Place:
    return Place(patient.id, patient.list_file_id, patient.row)


def _keys(patient: Patient) -> set[bytes]:
    keys = (patient.person_blind, patient.id_blind, patient.national_blind, patient.name_blind)
    return {key for key in keys if key is not None}


def _twins(session: Session, campaign_id: int, patients: Sequence[Patient]) -> dict[int, list[Patient]]:
    """Earlier people who share a key with each."""
    keys = list(set[bytes]().union(*map(_keys, patients)))
    known = (
        session.scalars(
            select(Patient).where(
                Patient.campaign_id == campaign_id,
                or_(
                    Patient.person_blind.in_(keys),
                    Patient.id_blind.in_(keys),
                    Patient.national_blind.in_(keys),
                    Patient.name_blind.in_(keys),
                ),
            )
        ).all()
        if keys
        else []
    )
    by_key: dict[bytes, list[Patient]] = {}
    for one in known:
        for key in _keys(one):
            by_key.setdefault(key, []).append(one)
    return {patient.id: _earlier(patient, by_key) for patient in patients}


def _earlier(patient: Patient, by_key: dict[bytes, list[Patient]]) -> list[Patient]:
    sharing = {one.id: one for key in _keys(patient) for one in by_key.get(key, ()) if one.id != patient.id}
    mine = (patient.list_file_id, patient.row)
    return sorted((one for one in sharing.values() if (one.list_file_id, one.row) < mine), key=lambda one: one.id)


def decide(
    session: Session, problem_id: int, *, is_same: bool, other_id: int | None, actor: str, now: datetime
) -> tuple[Campaign, Decision]:
    """Notes whether the two people of a doubt are one, and acts on it. The same answer again changes nothing.

    `other_id` is needed where a patient may be one of several. "Not the same" after "the same" takes it back.
    Raises NotFoundError for a doubt there is not, InputError for another that is not of it, ConflictError for a
    "the same" (or its taking back) once sending has begun.
    """
    problem = session.get(ListProblem, problem_id)
    list_file = session.get(ListFile, problem.list_file_id) if problem else None
    if problem is None or list_file is None or problem.reason not in REASONS:
        raise NotFoundError(f"There is no doubt {problem_id}.")
    campaign = session.get_one(Campaign, list_file.campaign_id, with_for_update=True, populate_existing=True)
    pair = next(iter(pairs(session, campaign.id, after=problem_id - 1, limit=1)), None)
    if pair is None or pair.id != problem_id:
        raise NotFoundError(f"The person of doubt {problem_id} is part of another one by now.")
    other = _chosen(pair, other_id)
    was_same = pair.decided.get(other)
    if was_same != is_same and (is_same or was_same):
        if campaign.state not in _BEFORE_START:
            raise ConflictError(
                f"Campaign {campaign.id} is {campaign.state}: who is one person can change only before the start."
            )
        both = [session.get_one(Patient, one, populate_existing=True) for one in (other, pair.mine.patient)]
        _join(session, both, now) if is_same else _part(session, both, now)
    values = {"patient_id": pair.mine.patient, "is_same": is_same, "decided_by": actor, "decided_at": now}
    if was_same is None:
        session.add(Decision(problem_id=problem_id, other_id=other, doctor_id=campaign.doctor_id, **values))
        session.flush()
    elif was_same != is_same:
        key = (Decision.problem_id == problem_id, Decision.other_id == other)
        session.execute(update(Decision).where(*key).values(values))
    decision = session.get_one(Decision, (problem_id, other), populate_existing=True)
    return campaign, decision


def _chosen(pair: Pair, other_id: int | None) -> int:
    known = [place.patient for place in pair.others] + list(pair.decided)
    if other_id is None and len(known) == 1:
        return known[0]
    if other_id not in known:
        names = ", ".join(map(str, known)) or "nobody any more"
        raise InputError(f"Patient {pair.mine.patient} may be the same person as: {names}. Name one of them.")
    return other_id


def _join(session: Session, both: Iterable[Patient], now: datetime) -> None:
    told, other = sorted(both, key=_precedence)
    if Exclusion.SAME_PERSON in (told.outcome_reason, other.outcome_reason):
        raise ConflictError("One of the two is another person's double already: take that back first.")
    session.execute(
        insert(PatientContact)
        .from_select(
            ["patient_id", "contact_id", "doctor_id", "rank"],
            select(
                literal(told.id, BigInteger()),
                PatientContact.contact_id,
                PatientContact.doctor_id,
                PatientContact.rank + _OTHERS_RANK,
            ).where(PatientContact.patient_id == other.id, PatientContact.rank < _OTHERS_RANK),
        )
        .on_conflict_do_nothing()
    )
    if other.outcome != Outcome.EXCLUDED:
        other.outcome, other.outcome_reason, other.outcome_at = Outcome.EXCLUDED, Exclusion.SAME_PERSON, now
    _stand(session, told, now)


def _precedence(patient: Patient) -> tuple[bool, ...]:
    """Who of two stays: one who has died is told by nobody's row; else one who is to be told; then the fuller."""
    return (
        patient.outcome_reason != Exclusion.DECEASED,
        patient.outcome == Outcome.EXCLUDED,
        patient.variant != Variant.COMMENT,
        not patient.has_postal,
    )


def _part(session: Session, both: Iterable[Patient], now: datetime) -> None:
    for one in both:
        if one.outcome_reason == Exclusion.SAME_PERSON:
            one.outcome = Outcome.UNREACHED
        session.execute(
            delete(PatientContact).where(PatientContact.patient_id == one.id, PatientContact.rank >= _OTHERS_RANK)
        )
        _stand(session, one, now)


def _stand(session: Session, patient: Patient, now: datetime) -> None:
    """Where somebody stands who is not excluded, before sending has begun."""
    session.flush()
    if patient.outcome == Outcome.EXCLUDED:
        return
    is_linked = session.scalar(
        select(func.count()).select_from(PatientContact).where(PatientContact.patient_id == patient.id)
    )
    if is_linked:
        patient.outcome, patient.outcome_reason, patient.outcome_at = Outcome.ON_THE_WAY, None, None
    else:
        patient.outcome, patient.outcome_reason = Outcome.UNREACHED, Unreached.NO_CONTACT
        patient.outcome_at = now
    session.flush()
