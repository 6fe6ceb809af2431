"""The proof file: what it holds, made and handed over when it is asked for; the hashes of those made before."""

from __future__ import annotations

import tempfile
from pathlib import Path

from sqlalchemy import select
from starlette.background import BackgroundTask
from starlette.responses import FileResponse, Response

from notifier import evidence, store
from notifier.accounts import DOCTORS
from notifier.models import Journal
from notifier.states import Campaign as State
from notifier.web.doctor.common import BEFORE_START, DECIDES, campaign_of, page
from notifier.web.pages import Pages, Visit

pages = Pages()

_PATH = "/doctor/campaigns/{campaign_id:int}/proof"
_MADE_SHOWN = 10


@pages.get(_PATH, allow=DOCTORS)
def proof(visit: Visit) -> Response:
    with visit.transaction() as session:
        campaign = campaign_of(visit, session)
        made = session.scalars(
            select(Journal)
            .where(Journal.subject == f"campaign:{campaign.id}", Journal.action == "evidence.export")
            .order_by(Journal.id.desc())
            .limit(_MADE_SHOWN)
        ).all()
        return page(
            visit,
            "proof.html",
            campaign,
            made=made,
            counts=store.outcome_counts(session, campaign.id),
            is_over=campaign.state in (State.COMPLETED, State.CANCELLED),
            is_before=campaign.state in BEFORE_START,
            decides=visit.standing in DECIDES,
        )


@pages.post(_PATH, allow=DECIDES)
def make(visit: Visit) -> Response:
    with visit.transaction() as session:
        campaign = campaign_of(visit, session)
    folder = tempfile.TemporaryDirectory(prefix="pn-proof-")
    try:
        path = Path(folder.name) / "proof.zip"
        made = evidence.export(
            visit.site.database,
            visit.site.settings,
            campaign.id,
            path,
            language=visit.language,
            doctor_id=visit.user.doctor_id,
            actor=visit.actor,
            now=visit.now,
        )
    except BaseException:
        folder.cleanup()
        raise
    name = f"{visit.say('doctor.file_proof')}-{campaign.id}-{made.manifest[:8]}.zip"
    return FileResponse(
        path, media_type="application/zip", filename=name, background=BackgroundTask(folder.cleanup)
    )
