"""The notice: as a patient's phone shows it, what is wrong with it, a test to oneself, the approval."""

from __future__ import annotations

from dataclasses import dataclass, replace

from sqlalchemy import select
from sqlalchemy.orm import Session
from starlette.responses import Response

from notifier import acts, approving, controlling, notices, sms, store, testsends
from notifier.accounts import DOCTORS
from notifier.acts import Draft
from notifier.composing import Preview
from notifier.errors import ConflictError, IncompleteNotice, InputError, NotFoundError
from notifier.models import Campaign, Doctor, TestSend
from notifier.notices import Gap
from notifier.states import Campaign as State
from notifier.states import Channel, Outcome, Variant
from notifier.web.doctor.common import DECIDES, campaign_of, choice, incident_of, page
from notifier.web.pages import Pages, Visit

pages = Pages()

#: the email as mail programs show it: nothing is loaded, nothing runs, only our own page may frame it
FRAMED = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'self'; sandbox",
    "X-Frame-Options": "SAMEORIGIN",
}
#: tests shown, the newest first
_TESTS_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Shown:
    """The texts of one language and variant, and the choice there is."""

    draft: Draft
    language: str
    variant: Variant
    languages: tuple[str, ...]
    variants: tuple[Variant, ...]
    texts: dict[Channel, Preview]

    @classmethod
    def of(cls, visit: Visit, session: Session, campaign: Campaign) -> Shown:
        """As the address asks. Raises NotFoundError for a language or variant there is no text of."""
        draft = acts.draft(session, visit.site.settings, campaign.id)
        written = draft.composed.notices
        languages = tuple(dict.fromkeys(one.language for one in written))
        variants = tuple(dict.fromkeys(one.variant for one in written))
        first = visit.language if visit.language in languages else languages[0]
        language = choice(visit, "language", languages, first)
        variant = choice(visit, "variant", variants, variants[0])
        texts = draft.preview(testsends.MADE_UP_NAME, language, variant)
        if campaign.notice_hash is not None:
            texts = _frozen(session, campaign, language, variant, texts)
        return cls(draft, language, variant, languages, variants, {text.channel: text for text in texts})


def _frozen(
    session: Session, campaign: Campaign, language: str, variant: Variant, texts: list[Preview]
) -> list[Preview]:
    """What was approved in place of what would be written now. A text that was not approved is not shown."""
    frozen = approving.load_frozen(session, campaign)
    shown = []
    for text in texts:
        if (text.channel, language, variant) not in frozen:
            continue
        content = frozen[text.channel, language, variant][1]
        plain, html = content.fill(testsends.MADE_UP_NAME)
        parts = sms.measure(plain).parts if text.channel is Channel.SMS else 0
        shown.append(replace(text, subject=content.subject, text=plain, html=html, parts=parts))
    return shown


@pages.get("/doctor/campaigns/{campaign_id:int}/notice", allow=DOCTORS)
def notice(visit: Visit) -> Response:
    with visit.transaction() as session:
        return _page(visit, session, campaign_of(visit, session))


@pages.get("/doctor/campaigns/{campaign_id:int}/notice/email", allow=DOCTORS)
def email(visit: Visit) -> Response:
    """The email by itself, for the frame."""
    with visit.transaction() as session:
        shown = Shown.of(visit, session, campaign_of(visit, session))
    if Channel.EMAIL not in shown.texts:
        raise NotFoundError("There is no email.")
    return Response(shown.texts[Channel.EMAIL].html, media_type="text/html", headers=FRAMED)


@pages.get("/doctor/campaigns/{campaign_id:int}/notice/tests", allow=DOCTORS)
def tests(visit: Visit) -> Response:
    """How the last tests stand: a page of its own, for who has no JavaScript."""
    with visit.transaction() as session:
        campaign = campaign_of(visit, session)
        return page(visit, "tests.html", campaign, **_tests(session, campaign))


@pages.part("/doctor/campaigns/{campaign_id:int}/notice/tests/now", allow=DOCTORS)
def tests_now(visit: Visit) -> Response:
    """The same alone."""
    with visit.transaction() as session:
        campaign = campaign_of(visit, session)
        return page(visit, "tests_part.html", campaign, **_tests(session, campaign))


def _tests(session: Session, campaign: Campaign) -> dict[str, object]:
    found = session.scalars(
        select(TestSend)
        .where(TestSend.campaign_id == campaign.id)
        .order_by(TestSend.id.desc())
        .limit(_TESTS_SHOWN)
    ).all()
    is_moving = any(not testsends.State(test.state).is_final for test in found)
    return {
        "tests": [(test, _how(test)) for test in found],
        "is_moving": is_moving,
    }


def _how(test: TestSend) -> str:
    """The key of the words for how a test ended."""
    code = test.code or ""
    if test.state == testsends.State.REFUSED and code.startswith("on_hold:"):
        return "on_hold"
    if test.state == testsends.State.REFUSED and code == "expired":
        return "expired"
    return test.state


@pages.post("/doctor/campaigns/{campaign_id:int}/notice/test", allow=DOCTORS)
def test(visit: Visit) -> Response:
    to = visit.text("to")
    settings = visit.site.settings
    with visit.transaction() as session:
        campaign = campaign_of(visit, session)
        shown = Shown.of(visit, session, campaign)
        if not _can_test(campaign, shown):
            raise ConflictError("The text that was approved is not the one that would be written now.")
        try:
            testsends.ask(
                session,
                settings.master,
                campaign,
                shown.draft.preview(testsends.MADE_UP_NAME, shown.language, shown.variant),
                to=to,
                channel=None,
                notice_hash=shown.draft.hash,
                region=settings.default_region,
                actor=visit.actor,
                now=visit.now,
            )
        except InputError:
            return _page(visit, session, campaign, 422, wrong_to="doctor.notice_test_wrong", to=to)
        except ConflictError:
            return _page(visit, session, campaign, 409, wrong_to="doctor.notice_test_many", to=to)
    query = f"?language={shown.language}&variant={shown.variant}"
    return visit.redirect(f"/doctor/campaigns/{campaign.id}/notice{query}#test", said="doctor.notice_test_asked")


@pages.post("/doctor/campaigns/{campaign_id:int}/notice/approve", allow=DECIDES)
def approve(visit: Visit) -> Response:
    with visit.transaction() as session:
        campaign = campaign_of(visit, session)
        if visit.text("sure") != "yes":
            return _page(visit, session, campaign, 422, wrong="doctor.approve_tick")
        # An import waits for this lock: how many are told cannot change between the look at it and the approval.
        controlling.locked(session, campaign.id)
        if _is_approved(campaign, visit.text("hash")):
            # Pressed twice, or come back to: what was wanted is so.
            return visit.redirect(f"/doctor/campaigns/{campaign.id}/progress", said="doctor.approved_already")
        profile = incident_of(visit, session, campaign)[2]
        if visit.text("patients") != str(approving.needs(session, campaign, profile).patients):
            return _page(visit, session, campaign, 409, wrong="doctor.approve_changed")
        try:
            with session.begin_nested():
                acts.approve(
                    session,
                    visit.site.settings,
                    campaign.id,
                    expected_hash=visit.text("hash"),
                    actor=visit.actor,
                    now=visit.now,
                )
        except IncompleteNotice:
            return _page(visit, session, campaign, 409, wrong="doctor.approve_incomplete")
        except (ConflictError, InputError):
            session.refresh(campaign)
            return _page(visit, session, campaign, 409, wrong="doctor.approve_changed")
    return visit.redirect(f"/doctor/campaigns/{campaign.id}/progress", said="doctor.approved")


def _page(
    visit: Visit,
    session: Session,
    campaign: Campaign,
    status: int = 200,
    *,
    wrong: str = "",
    wrong_to: str = "",
    to: str = "",
) -> Response:
    shown = Shown.of(visit, session, campaign)
    composed = shown.draft.composed
    needed = approving.needs(session, campaign, shown.draft.profile)
    state = State(campaign.state)
    doctor = session.get_one(Doctor, campaign.doctor_id)
    return page(
        visit,
        "notice.html",
        campaign,
        status,
        shown=shown,
        sender=notices.sender_name(doctor.name, doctor.practice),
        can_test=_can_test(campaign, shown),
        email=shown.texts.get(Channel.EMAIL),
        sms=shown.texts.get(Channel.SMS),
        patients=needed.patients,
        reachable=store.outcome_counts(session, campaign.id)[Outcome.ON_THE_WAY],
        missing=_gaps(visit, composed.missing),
        warnings=_gaps(visit, composed.warnings),
        is_frozen=campaign.notice_hash is not None,
        can_approve=state in (State.DRAFT, State.READY) and bool(needed.patients) and not composed.missing,
        is_open=state in (State.DRAFT, State.READY),
        decides=visit.standing in DECIDES,
        wrong=visit.say(wrong) if wrong else "",
        wrong_to=visit.say(wrong_to) if wrong_to else "",
        to=to,
        **_tests(session, campaign),
    )


def _is_approved(campaign: Campaign, shown_hash: str) -> bool:
    """Whether this very text is approved already."""
    approved = campaign.notice_hash if campaign.state != State.CANCELLED else None
    return approved is not None and approved.hex() == shown_hash


def _can_test(campaign: Campaign, shown: Shown) -> bool:
    """A test sends what is shown: the text as it stands, which is the approved one where there is one."""
    is_as_shown = campaign.notice_hash in (None, shown.draft.composed.hash)
    return is_as_shown and campaign.data_key is not None and campaign.state != State.CANCELLED


def _gaps(visit: Visit, gaps: tuple[Gap, ...]) -> list[str]:
    """Each gap once, in words."""
    return list(dict.fromkeys(gap.words.get(visit.language) or gap.words["en"] for gap in gaps))
