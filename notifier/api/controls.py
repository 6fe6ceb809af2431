"""What only operations do: stop everything, a channel or a provider, and keep the API's keys."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Response
from pydantic import BaseModel
from sqlalchemy import select
from sqlalchemy.orm import Session

from notifier import controlling
from notifier.api import answers
from notifier.api.answers import PathId
from notifier.api.auth import Operations, make_key, operations, revoke_key
from notifier.api.idempotency import Act
from notifier.api.pages import Page, Paging, page
from notifier.api.problems import documented
from notifier.api.protocol import json_only
from notifier.models import ApiKey, Hold

holds = APIRouter(prefix="/api/v1/holds", tags=["Holds"], responses=documented(401, 403, 422, 503))
keys = APIRouter(prefix="/api/v1/keys", tags=["Keys"], responses=documented(401, 403, 422, 503))

Scope = Annotated[
    str,
    Path(
        max_length=60,
        description='"everything", "channel:sms" or "provider:<name>".',
        json_schema_extra={"enum": list(controlling.SCOPES)},
    ),
]
Stopped = Annotated[str, Path(max_length=60, description="What stands in the list of holds.")]


@holds.get("", summary="List what is on hold", response_model=list[answers.Hold])
def list_holds(caller: Operations) -> list[answers.Hold]:
    """A handful at most; one whose time has passed no longer stops anything."""
    with caller.transaction() as session:
        return [answers.Hold.model_validate(row) for row in session.scalars(select(Hold).order_by(Hold.scope))]


@holds.put(
    "/{scope}",
    summary="Stop sending",
    response_model=answers.Hold,
    responses=documented(400, 413, 415),
    dependencies=[Depends(operations), Depends(json_only)],
)
def set_hold(scope: Scope, new: answers.NewHold, caller: Operations) -> answers.Hold:
    """No message of this scope goes out later than a second after the answer."""
    now = datetime.now(UTC)
    with caller.transaction() as session:
        controlling.hold(session, scope, actor=caller.actor, reason=new.reason, now=now, until=new.until)
        session.flush()
        held = session.get_one(Hold, scope)
        session.refresh(held)
        return answers.Hold.model_validate(held)


@holds.delete("/{scope}", summary="Let a scope go on", status_code=204, responses=documented(404))
def lift_hold(scope: Stopped, caller: Operations) -> Response:
    """What waited is sent; nothing is lost by a hold."""
    with caller.transaction() as session:
        controlling.lift(session, scope, actor=caller.actor)
    return Response(status_code=204)


@keys.post(
    "",
    summary="Make an API key",
    status_code=201,
    response_model=answers.MadeKey,
    responses=documented(400, 404, 409, 413, 415),
    dependencies=[Depends(operations)],
)
def create_key(new: answers.NewKey, act: Act) -> Response:
    """The secret is told in this answer only. If it got lost, revoke the key and make another."""

    def create(session: Session) -> answers.MadeKey:
        key, secret = make_key(session, new.name, new.doctor, actor=act.caller.actor)
        session.refresh(key)
        made = answers.MadeKey.model_validate(key)
        made.secret = secret
        return made

    return act.once(201, create, kept=_without_secret)


def _without_secret(answer: BaseModel) -> BaseModel:
    return answer.model_copy(update={"secret": None})


@keys.get("", summary="List API keys", response_model=Page[answers.Key])
def list_keys(caller: Operations, asked: Annotated[Paging, Query()]) -> Page[answers.Key]:
    """Without their secrets, revoked ones too."""
    with caller.transaction() as session:
        return page(session, select(ApiKey), ApiKey.id, asked, "keys", answers.Key.model_validate)


@keys.delete("/{key_id}", summary="Revoke an API key", status_code=204, responses=documented(404))
def delete_key(key_id: PathId, caller: Operations) -> Response:
    """Refused from the answer on."""
    with caller.transaction() as session:
        revoke_key(session, key_id, actor=caller.actor, now=datetime.now(UTC))
    return Response(status_code=204)
