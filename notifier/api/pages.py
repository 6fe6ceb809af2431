"""Long listings in pages, by id: a cursor marks the last row shown.

Rows committed before a walk began are seen exactly once. A row gets its id before its transaction commits, so
one that is added meanwhile may stand behind the walk and be missed: walk again. A filter on what changes, a
state say, is judged when the page is read.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from typing import Annotated, Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Select
from sqlalchemy.orm import InstrumentedAttribute, Session

from notifier.errors import InputError

T = TypeVar("T", bound=BaseModel)
R = TypeVar("R")

MOST = 200


class Page(BaseModel, Generic[T]):
    """Some rows of a listing; `next` is the `cursor` of the following page, null on the last."""

    items: list[T]
    next: str | None


class Paging(BaseModel):
    """What every listing can be asked. A parameter nobody knows is an error: a filter is never ignored."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    limit: Annotated[int, Field(ge=1, le=MOST, description="Rows on one page.")] = 50
    cursor: Annotated[
        str | None,
        Field(
            max_length=200,
            description="`next` of the page before.",
            json_schema_extra={"pattern": "^[A-Za-z0-9_-]+$"},
        ),
    ] = None


def page(
    session: Session,
    statement: Select[R],
    number: InstrumentedAttribute[int],
    asked: Paging,
    listing: str,
    read: Callable[[R], T],
) -> Page[T]:
    """The rows after the cursor, ordered by `number`, their id. Raises InputError for a cursor that is not ours
    or belongs to another listing."""
    if asked.cursor is not None:
        statement = statement.where(number > after_of(listing, asked.cursor))
    rows = session.scalars(statement.order_by(number).limit(asked.limit + 1)).all()
    shown = rows[: asked.limit]
    more = cursor_of(listing, _number(shown[-1], number)) if len(rows) > asked.limit else None
    return Page(items=[read(row) for row in shown], next=more)


def _number(row: Any, number: InstrumentedAttribute[int]) -> int:
    value: int = getattr(row, number.key)
    return value


def cursor_of(listing: str, number: int) -> str:
    """The cursor behind this row of a listing."""
    return base64.urlsafe_b64encode(f"{listing}:{number}".encode()).decode().rstrip("=")


def after_of(listing: str, cursor: str | None) -> int:
    """The last row shown; 0 on the first page. Raises InputError as `page` does."""
    if cursor is None:
        return 0
    wrong = InputError("This cursor is none of this listing's: take `next` of the page before as it is.")
    try:
        name, _, number = (
            base64.b64decode(cursor + "=" * (-len(cursor) % 4), b"-_", validate=True).decode().partition(":")
        )
    except (binascii.Error, ValueError) as error:
        raise wrong from error
    if name != listing or not (number.isascii() and number.isdigit() and len(number) < 19):
        raise wrong
    return int(number)
