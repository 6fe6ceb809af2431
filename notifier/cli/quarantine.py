"""`notifier quarantine …`: deliveries set aside because they ended their worker too often, or cannot be read."""

from __future__ import annotations

from typing import Annotated

import typer
from sqlalchemy import text

from notifier import controlling
from notifier.cli import common
from notifier.cli.delivery import LARGEST, DryRun, EvenTold, Ids, OfCampaign, Why, Yes, act_on_chosen, choose
from notifier.controlling import Again
from notifier.errors import NotFoundError
from notifier.models import Campaign
from notifier.states import Delivery as State

app = typer.Typer(no_args_is_help=True, help="See what was set aside; send it again or give it up.")

_COLUMNS = ("id", "campaign_id", "channel", "language", "reason", "crashes", "tries", "possibly_twice")

#: Only campaigns that have some are looked through: `tally` names them.
_SET_ASIDE = text(
    f"""
    SELECT {", ".join(_COLUMNS)} FROM delivery
    WHERE state = '{State.QUARANTINED}' AND id > :after AND campaign_id IN (
        SELECT campaign_id FROM tally WHERE state = '{State.QUARANTINED}'
          AND (CAST(:campaign_id AS bigint) IS NULL OR campaign_id = :campaign_id)
        GROUP BY campaign_id HAVING sum(n) > 0
    )
    ORDER BY id LIMIT :limit
    """  # noqa: S608 - put together from our own names
)


@app.command(name="list")
def list_(
    campaign: Annotated[int | None, typer.Option(help="Only this campaign.", min=1, max=LARGEST)] = None,
    after: common.After = 0,
    limit: common.Limit = 200,
    as_json: common.Json = False,
) -> None:
    """List what was set aside, and why."""
    with common.work() as work:
        if campaign is not None and work.session.get(Campaign, campaign) is None:
            raise NotFoundError(f"There is no campaign {campaign}.")
        values = {"campaign_id": campaign, "after": after, "limit": limit + 1}
        found = work.session.execute(_SET_ASIDE, values).all()
    rows = [common.columns_of(row, *_COLUMNS) for row in found[:limit]]
    last = rows[-1]["id"] if len(found) > limit else None
    only = f" --campaign {campaign}" if campaign is not None else ""
    read_on = f"notifier quarantine list{only} --after {last}" if last else ""
    common.emit_list("quarantined", rows, as_json, _COLUMNS, next=last, read_on=read_on)


@app.command()
def release(
    reason: Why,
    deliveries: Ids = None,
    campaign: OfCampaign = None,
    even_told: EvenTold = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: common.Json = False,
) -> None:
    """Send again what was set aside, once what it died of is mended. Its count of crashes begins anew."""
    chosen = choose(deliveries, campaign)

    def act(work: common.Work, dry_run: bool) -> Again:
        return controlling.release(
            work.session,
            chosen,
            actor=work.actor,
            reason=reason,
            now=work.now,
            even_told=even_told,
            dry_run=dry_run,
        )

    act_on_chosen("released", act, dry_run=dry_run, yes=yes, as_json=as_json)


@app.command(name="give-up")
def give_up(
    reason: Why,
    deliveries: Ids = None,
    campaign: OfCampaign = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: common.Json = False,
) -> None:
    """Fail what was set aside: the next channel takes over, or the letter list."""
    chosen = choose(deliveries, campaign)

    def act(work: common.Work, dry_run: bool) -> Again:
        return controlling.give_up(
            work.session, chosen, actor=work.actor, reason=reason, now=work.now, dry_run=dry_run
        )

    act_on_chosen("given up", act, dry_run=dry_run, yes=yes, as_json=as_json)
