"""Step 3: the composed text is frozen by hash, with who approved it and when; nothing else can be sent.

The approver sees a hash with the preview. Approving takes the text composed again from the facts of that moment
and goes through only if it has the same hash. Every function expects a transaction its caller commits, and locks
the campaign's row in it, so that no import or second approval can slip in between.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import product

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from notifier import models, states, store
from notifier.errors import ConflictError
from notifier.notices import (
    DraftNotice,
    Frozen,
    Gap,
    Key,
    Stored,
    approved,
    check_complete,
    digest_of,
    hash_of,
)
from notifier.profiles import Profile
from notifier.states import Channel, Outcome, Variant


@dataclass(frozen=True, slots=True)
class Needs:
    """Which texts the patients of a campaign need; excluded patients need none."""

    patients: int
    languages: tuple[str, ...]
    variants: tuple[Variant, ...]
    channels: tuple[Channel, ...]

    @property
    def keys(self) -> frozenset[Key]:
        return frozenset(product(self.channels, self.languages, self.variants))


def needs(session: Session, campaign: models.Campaign, profile: Profile) -> Needs:
    """What to compose for a campaign. A language the profile does not have becomes its first one."""
    tally = models.PatientTally
    rows = [
        row
        for row in store.patient_counts(session, campaign.id, tally.language, tally.variant, tally.outcome)
        if row.outcome != Outcome.EXCLUDED and row.n
    ]
    return Needs(
        patients=sum(row.n for row in rows),
        languages=tuple(sorted({profile.language_for(row.language) for row in rows})),
        variants=tuple(sorted({Variant(row.variant) for row in rows})),
        channels=tuple(Channel(channel) for channel in campaign.plan),
    )


def mark_ready(
    session: Session,
    campaign: models.Campaign,
    *,
    profile: Profile,
    notices: Sequence[DraftNotice],
    missing: Iterable[Gap],
    actor: str,
) -> bytes:
    """Moves a draft to `ready` and returns the hash an approver will see.

    Raises MoveError if it is not a draft, ConflictError if it has no patient to inform or lacks a text one of
    them needs, IncompleteNotice if a part is missing. A campaign that is ready already stays so.
    """
    _lock(session, campaign)
    if campaign.state != states.Campaign.READY:
        states.check_move(states.Campaign(campaign.state), states.Campaign.READY)
    _check(session, campaign, profile, notices, missing)
    seen = hash_of(notices)
    if campaign.state != states.Campaign.READY:
        campaign.state = states.Campaign.READY
        _record(session, campaign, actor, "campaign.ready", notice_hash=seen.hex())
    return seen


def approve(
    session: Session,
    campaign: models.Campaign,
    *,
    profile: Profile,
    notices: Sequence[DraftNotice],
    missing: Iterable[Gap],
    expected_hash: bytes,
    actor: str,
    now: datetime,
) -> bytes:
    """Freezes `notices`, composed just now, as the only texts this campaign can send; returns their hash.

    Raises MoveError if the campaign is not ready, IncompleteNotice if a part is missing, ConflictError if there is
    no patient, a needed text is absent, or the text is not the one the approver saw.
    """
    _lock(session, campaign)
    states.check_move(states.Campaign(campaign.state), states.Campaign.APPROVED)
    _check(session, campaign, profile, notices, missing)
    current = hash_of(notices)
    if current != expected_hash:
        raise ConflictError(
            f"Campaign {campaign.id}: this hash is not that of the present text "
            f"(given {expected_hash.hex()[:12]}, now {current.hex()[:12]}): look at the preview again."
        )
    version = _newest_version(session, campaign.id) + 1
    session.add_all(_row(notice, campaign, version, now) for notice in notices)
    campaign.notice_hash, campaign.approved_at, campaign.approved_by = current, now, actor
    campaign.state = states.Campaign.APPROVED
    each = {"/".join(notice.key): digest_of(notice).hex() for notice in notices}
    _record(session, campaign, actor, "campaign.approve", version=version, notice_hash=current.hex(), notices=each)
    return current


def void_approval(session: Session, campaign: models.Campaign, *, actor: str, reason: str) -> bool:
    """Back to `draft` because list or text changed; the texts frozen before stay as history.

    Returns whether anything changed: a draft stays one. Raises MoveError once sending has begun, because then
    neither list nor text may change any more.
    """
    _lock(session, campaign)
    if campaign.state == states.Campaign.DRAFT:
        return False
    states.check_move(states.Campaign(campaign.state), states.Campaign.DRAFT)
    before = campaign.notice_hash.hex() if campaign.notice_hash else None
    campaign.state = states.Campaign.DRAFT
    campaign.notice_hash = campaign.approved_at = campaign.approved_by = None
    _record(session, campaign, actor, "campaign.void_approval", reason=reason, notice_hash=before)
    return True


def load_frozen(session: Session, campaign: models.Campaign) -> dict[Key, tuple[int, Frozen]]:
    """The approved texts by channel, language and variant, each with its notice id: all that can be sent.

    Raises ConflictError if nothing is approved, or if any text, or the set of them, is not what was approved.
    """
    version = _newest_version(session, campaign.id)
    rows = session.execute(
        select(*(getattr(models.Notice, column) for column in Stored._fields)).where(
            models.Notice.campaign_id == campaign.id, models.Notice.version == version
        )
    )
    texts = approved(campaign.id, (Stored(*row) for row in rows), campaign.notice_hash)
    return {key: (row.id, Frozen(row.subject, row.text, row.html)) for key, row in texts.items()}


def _lock(session: Session, campaign: models.Campaign) -> None:
    session.refresh(campaign, with_for_update=True)


def _check(
    session: Session,
    campaign: models.Campaign,
    profile: Profile,
    notices: Sequence[DraftNotice],
    missing: Iterable[Gap],
) -> None:
    needed = needs(session, campaign, profile)
    if not needed.patients:
        raise ConflictError(f"Campaign {campaign.id} has no patient to inform: import a list first.")
    check_complete(missing)
    keys = [notice.key for notice in notices]
    if len(set(keys)) != len(keys):
        raise ConflictError(f"Campaign {campaign.id}: one text was composed twice.")
    if lacking := needed.keys - set(keys):
        named = ", ".join(sorted("/".join(key) for key in lacking))
        raise ConflictError(f"Campaign {campaign.id}: its patients also need {named}; compose them too.")


def _newest_version(session: Session, campaign_id: int) -> int:
    newest = select(func.max(models.Notice.version)).where(models.Notice.campaign_id == campaign_id)
    return session.scalar(newest) or 0


def _row(notice: DraftNotice, campaign: models.Campaign, version: int, now: datetime) -> models.Notice:
    return models.Notice(
        campaign_id=campaign.id,
        doctor_id=campaign.doctor_id,
        channel=notice.channel,
        language=notice.language,
        variant=notice.variant,
        version=version,
        subject=notice.subject,
        text=notice.text,
        html=notice.html,
        sha256=digest_of(notice),
        frozen_at=now,
    )


def _record(session: Session, campaign: models.Campaign, actor: str, action: str, **detail: object) -> None:
    store.record(session, actor, action, f"campaign:{campaign.id}", campaign.doctor_id, detail)
