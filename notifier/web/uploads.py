"""A list that a doctor sent from a page, kept between the look at it and its corrections.

Nobody should choose the same file again at each step, and no process may be the only one that has it: it stands in
the database, sealed with the campaign's key, for a day at most.
"""

from __future__ import annotations

import io
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta

import orjson
from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from notifier.errors import InputError, NotFoundError
from notifier.importers import Refusal, as_error
from notifier.lists import Given
from notifier.models import Campaign, ListUpload
from notifier.sealing import MasterKey

#: how long a file is kept
KEEP = timedelta(days=1)
#: a doctor's list is a hundredth of it; larger ones come by the API or from operations
MOST_BYTES = 32 * 1024 * 1024
#: files of one campaign that are kept at a time
_MOST_KEPT = 5

_CONTENT, _SAID = b"list_upload.content", b"list_upload.said"


@dataclass(slots=True)
class Said:
    """What the doctor said about a file."""

    filename: str = ""
    #: header → meaning, or "ignore"
    mapping: dict[str, str] = field(default_factory=dict)
    sheet: str | None = None
    #: rows that have suggestions, noted when the list was imported
    suggested: list[int] = field(default_factory=list)
    #: rows whose suggestions were accepted
    accepted: list[int] = field(default_factory=list)

    @property
    def waiting(self) -> set[int]:
        """Rows whose suggestions nobody has accepted yet."""
        return set(self.suggested) - set(self.accepted)


@dataclass(slots=True)
class Upload:
    """A file that is kept, open."""

    row: ListUpload
    content: bytes
    said: Said

    @property
    def source(self) -> io.BytesIO:
        return io.BytesIO(self.content)

    @property
    def given(self) -> Given:
        return Given(self.said.filename or None, self.said.mapping, self.said.sheet)


def keep(
    session: Session, master: MasterKey, campaign: Campaign, content: bytes, filename: str, *, now: datetime
) -> ListUpload:
    """Keeps a file; the oldest of a campaign's go when there are too many. Raises InputError for one too large."""
    if len(content) > MOST_BYTES:
        raise as_error(InputError, Refusal.TOO_LARGE_FOR_A_PAGE, most=MOST_BYTES)
    key = master.open_data_key(campaign.data_key, campaign.id)
    made = ListUpload(
        campaign_id=campaign.id,
        doctor_id=campaign.doctor_id,
        content_sealed=key.seal(content, _CONTENT),
        said_sealed=key.seal(orjson.dumps(asdict(Said(filename))), _SAID),
        at=now,
    )
    session.add(made)
    session.flush()
    kept = select(ListUpload.id).where(ListUpload.campaign_id == campaign.id).order_by(ListUpload.id.desc())
    session.execute(
        delete(ListUpload).where(
            ListUpload.campaign_id == campaign.id, ListUpload.id.not_in(kept.limit(_MOST_KEPT))
        )
    )
    return made


def find(session: Session, master: MasterKey, campaign: Campaign, upload_id: int, *, now: datetime) -> Upload:
    """Raises NotFoundError for one that is over, or another campaign's."""
    row = session.get(ListUpload, upload_id)
    is_mine = row is not None and row.campaign_id == campaign.id and campaign.data_key is not None
    if row is None or not is_mine or row.at < now - KEEP:
        raise NotFoundError("There is no such file any more.")
    return _opened(master, campaign, row)


def of_list(
    session: Session, master: MasterKey, campaign: Campaign, list_id: int, *, now: datetime
) -> Upload | None:
    """The file that a list was imported from, while it is kept."""
    row = session.scalar(
        select(ListUpload)
        .where(
            ListUpload.campaign_id == campaign.id, ListUpload.list_file_id == list_id, ListUpload.at >= now - KEEP
        )
        .order_by(ListUpload.id.desc())
        .limit(1)
    )
    return _opened(master, campaign, row) if row and campaign.data_key else None


def _opened(master: MasterKey, campaign: Campaign, row: ListUpload) -> Upload:
    key = master.open_data_key(campaign.data_key, campaign.id)
    said = Said(**orjson.loads(key.open(row.said_sealed, _SAID)))
    return Upload(row, key.open(row.content_sealed, _CONTENT), said)


def save(session: Session, master: MasterKey, campaign: Campaign, upload: Upload) -> None:
    """Keeps what was said."""
    key = master.open_data_key(campaign.data_key, campaign.id)
    upload.row.said_sealed = key.seal(orjson.dumps(asdict(upload.said)), _SAID)
    session.flush()


def discard(session: Session, campaign: Campaign, upload_id: int) -> None:
    """Forgets a file. Raises NotFoundError for one that is gone, or another campaign's."""
    gone = delete(ListUpload).where(ListUpload.id == upload_id, ListUpload.campaign_id == campaign.id)
    if session.scalar(gone.returning(ListUpload.id)) is None:
        raise NotFoundError("There is no such file any more.")


def tidy(session: Session, *, now: datetime) -> None:
    """Forgets every file that is over; in a transaction that sees all doctors."""
    session.execute(delete(ListUpload).where(ListUpload.at < now - KEEP))
