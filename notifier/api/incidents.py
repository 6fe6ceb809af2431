"""Incidents and doctors: operations keep them, a doctor sees what concerns them."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Query, Request, Response
from sqlalchemy import select
from sqlalchemy.orm import Session

from notifier import acts
from notifier.api import answers
from notifier.api.answers import UNCHANGED, PathId, single, written
from notifier.api.auth import Caller, Known, Operations, operations
from notifier.api.idempotency import Act
from notifier.api.pages import Page, Paging, page
from notifier.api.problems import documented
from notifier.api.protocol import json_only, require_unchanged
from notifier.errors import NotFoundError
from notifier.models import Campaign, Doctor, Incident

incidents = APIRouter(prefix="/api/v1/incidents", tags=["Incidents"], responses=documented(401, 422, 503))
doctors = APIRouter(prefix="/api/v1/doctors", tags=["Doctors"], responses=documented(401, 422, 503))


@incidents.post(
    "",
    summary="Open an incident",
    status_code=201,
    response_model=answers.Incident,
    responses=documented(400, 403, 409, 413, 415),
    dependencies=[Depends(operations)],
)
def create_incident(new: answers.NewIncident, act: Act) -> Response:
    """Facts may be completed later; a notice can be approved only once nothing the profile requires is missing."""
    settings = act.caller.context.settings

    def create(session: Session) -> answers.Incident:
        made = acts.create_incident(
            session, settings, new.reference, new.profile, new.facts, actor=act.caller.actor
        )
        return _incident(session, made)

    return act.once(201, create, location="/api/v1/incidents/{id}")


@incidents.get("", summary="List incidents", response_model=Page[answers.IncidentLine])
def list_incidents(known: Known, asked: Annotated[Paging, Query()]) -> Page[answers.IncidentLine]:
    """A doctor sees the incidents they have a campaign for."""
    statement = select(Incident)
    if known.doctor_id is not None:
        statement = statement.where(Incident.id.in_(select(Campaign.incident_id)))
    with known.transaction() as session:
        return page(session, statement, Incident.id, asked, "incidents", answers.IncidentLine.model_validate)


@incidents.get(
    "/{incident_id}",
    summary="Look at an incident",
    response_model=answers.Incident,
    responses=documented(404) | UNCHANGED,
)
def get_incident(incident_id: PathId, known: Known, request: Request) -> Response:
    """With all its facts."""
    with known.transaction() as session:
        return single(request, answers.Incident.model_validate(_visible(session, known, incident_id)))


@incidents.put(
    "/{incident_id}/facts",
    summary="Replace an incident's facts",
    response_model=answers.Incident,
    responses=documented(400, 403, 404, 409, 412, 413, 415),
    dependencies=[Depends(operations), Depends(json_only)],
)
def change_facts(
    incident_id: PathId, facts: Annotated[dict[str, Any], Body()], caller: Operations, request: Request
) -> Response:
    """Every campaign that is approved but not yet started must be approved again. With `If-Match`, the ETag of the
    incident as you know it, nobody else's change is overwritten."""
    with caller.transaction() as session:
        before = session.get(Incident, incident_id, with_for_update=True)
        if before is not None:
            require_unchanged(request, answers.Incident.model_validate(before))
        changed = acts.change_facts(session, incident_id, facts, actor=caller.actor)
        answer = _incident(session, changed)
    return written(answer)


@doctors.post(
    "",
    summary="Add a doctor",
    status_code=201,
    response_model=answers.Doctor,
    responses=documented(400, 403, 409, 413, 415),
    dependencies=[Depends(operations)],
)
def create_doctor(new: answers.NewDoctor, act: Act) -> Response:
    """Name, practice, address and phone stand in the notices as given here."""

    def create(session: Session) -> answers.Doctor:
        made = acts.create_doctor(session, actor=act.caller.actor, **new.model_dump())
        session.refresh(made)
        return answers.Doctor.model_validate(made)

    return act.once(201, create, location="/api/v1/doctors/{id}")


@doctors.get("", summary="List doctors", response_model=Page[answers.Doctor])
def list_doctors(known: Known, asked: Annotated[Paging, Query()]) -> Page[answers.Doctor]:
    """A doctor sees themselves."""
    with known.transaction() as session:
        return page(session, select(Doctor), Doctor.id, asked, "doctors", answers.Doctor.model_validate)


@doctors.get(
    "/{doctor_id}",
    summary="Look at a doctor",
    response_model=answers.Doctor,
    responses=documented(404) | UNCHANGED,
)
def get_doctor(doctor_id: PathId, known: Known, request: Request) -> Response:
    """As they stand in notices."""
    with known.transaction() as session:
        doctor = session.get(Doctor, doctor_id)
        if doctor is None:
            raise NotFoundError(f"There is no doctor {doctor_id}.")
        return single(request, answers.Doctor.model_validate(doctor))


def _incident(session: Session, incident: Incident) -> answers.Incident:
    session.flush()
    session.refresh(incident)
    return answers.Incident.model_validate(incident)


def _visible(session: Session, known: Caller, incident_id: int) -> Incident:
    statement = select(Incident).where(Incident.id == incident_id)
    if known.doctor_id is not None:
        # Incidents are nobody's own: one without a campaign of this doctor does not concern them.
        statement = statement.where(Incident.id.in_(select(Campaign.incident_id)))
    incident = session.scalar(statement)
    if incident is None:
        raise NotFoundError(f"There is no incident {incident_id}.")
    return incident
