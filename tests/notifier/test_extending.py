"""A list that comes after the start: the new are told, what it takes back is not sent, and nobody is told twice."""

from __future__ import annotations

import asyncio
import io
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from notifier import acts, controlling, fanout, store
from notifier.errors import ConflictError, NotFoundError
from notifier.models import Campaign
from notifier.providers.base import Blame, Kind, Message, Outcome
from notifier.settings import Settings
from notifier.states import Channel
from notifier.store import Database
from tests.factories import HEADER, import_more, make_campaign, make_settings, person, start_campaign
from tests.notifier.test_sending import Engine, FakeProvider, outcomes, run, settle, states
from tests.waiting import until

LATER = timedelta(days=4)
REFUSED = Outcome(Kind.REFUSED, "smtp_550_5.1.1", Blame.PERSON)
AGAIN_LATER = Outcome(Kind.REFUSED, "smtp_451", Blame.LATER)
WITH_COMMENT = HEADER + ";remarque"


@pytest.fixture
def current(database_url: str) -> Settings:
    return make_settings(database_url)


def state_of(database: Database) -> str:
    with database.staff() as session:
        return session.scalar(text("SELECT state FROM campaign"))


def people(database: Database) -> list[tuple[str, str | None]]:
    with database.staff() as session:
        rows = session.execute(text("SELECT outcome, outcome_reason FROM patient ORDER BY id"))
        return [tuple(row) for row in rows]


def deliveries(database: Database) -> list[tuple[str, str, str | None]]:
    with database.staff() as session:
        rows = session.execute(text("SELECT channel, state, reason FROM delivery ORDER BY id"))
        return [tuple(row) for row in rows]


def extend(database: Database, campaign_id: int, **options: object) -> fanout.Extended:
    with database.staff() as session:
        return fanout.extend_all(session, campaign_id, now=datetime.now(UTC), **options)


def sent_to(provider: FakeProvider) -> list[str]:
    return sorted(message.recipient for message in provider.sent)


def test_whom_a_list_adds_while_sending_is_told_and_nobody_again(database: Database, current: Settings):
    lines = [person(number) for number in range(5)]
    campaign = start_campaign(database, current, lines)
    first = FakeProvider()
    run(current, first, campaign.id, campaign.epoch)
    settle(database, current, after=LATER)
    assert outcomes(database, campaign.id)["informed"] == 5
    import_more(database, current, campaign.id, [*lines, *(person(number) for number in range(5, 8))])
    further = FakeProvider()
    run(current, further, campaign.id, campaign.epoch)
    assert sent_to(further) == [f"patient{number}@example.org" for number in (5, 6, 7)]
    settle(database, current, after=LATER)
    assert outcomes(database, campaign.id)["informed"] == 8


def test_who_was_told_is_not_told_again_under_a_corrected_name(database: Database, current: Settings):
    campaign = start_campaign(database, current, [person(1, phone=None)])
    run(current, FakeProvider(), campaign.id, campaign.epoch)
    settle(database, current, after=LATER)
    import_more(database, current, campaign.id, [person(1, phone=None, nom="Autre")])
    further = FakeProvider()
    run(current, further, campaign.id, campaign.epoch)
    assert sent_to(further) == []
    assert outcomes(database, campaign.id)["informed"] == 1


def test_an_approval_stays_as_it_was_and_the_journal_says_what_the_list_did(database: Database, current: Settings):
    campaign = start_campaign(database, current, [person(1), person(2)])
    import_more(database, current, campaign.id, [person(1, email="new@example.org"), person(3)])
    with database.staff() as session:
        approved = session.execute(text("SELECT state, epoch, notice_hash IS NOT NULL, approved_by FROM campaign"))
        assert approved.one() == ("sending", campaign.epoch, True, "cli:test")
        detail = session.scalar(text("SELECT detail FROM journal ORDER BY id DESC LIMIT 1"))
    assert detail == {
        "rows": 2, "accepted": 1, "refused": 0, "withdrawn": 1, "given": 2, "informed": 0, "unreached": 0,
    }  # fmt: skip


def test_a_completed_campaign_goes_on_for_somebody_new_and_completes_again(database: Database, current: Settings):
    campaign = start_campaign(database, current, [person(1)])
    run(current, FakeProvider(), campaign.id, campaign.epoch)
    settle(database, current, after=LATER)
    assert state_of(database) == "completed"
    import_more(database, current, campaign.id, [person(1), person(9, email=None, phone=None)])
    assert state_of(database) == "completed", "nobody new can be reached"
    import_more(database, current, campaign.id, [person(1), person(2)])
    assert state_of(database) == "sending"
    provider = FakeProvider()
    run(current, provider, campaign.id, campaign.epoch)
    assert sent_to(provider) == ["patient2@example.org"]
    settle(database, current, after=LATER)
    assert state_of(database) == "completed"


def test_a_paused_campaign_takes_a_list_and_stays_paused(database: Database, current: Settings):
    campaign = start_campaign(database, current, [person(1)])
    with database.staff() as session:
        controlling.pause(session, campaign.id, actor="cli:test", reason="phones ring")
    import_more(database, current, campaign.id, [person(2)])
    assert state_of(database) == "paused"
    assert outcomes(database, campaign.id)["on_the_way"] == 2
    with database.staff() as session:
        epoch = controlling.resume(session, campaign.id, actor="cli:test").epoch
    provider = FakeProvider()
    run(current, provider, campaign.id, epoch)
    assert sent_to(provider) == ["patient1@example.org", "patient2@example.org"]


def test_a_cancelled_campaign_takes_no_list(database: Database, current: Settings):
    campaign = start_campaign(database, current, [person(1)])
    with database.staff() as session:
        controlling.cancel(session, campaign.id, actor="cli:test", reason="wrong", now=datetime.now(UTC))
    with pytest.raises(ConflictError, match="cancelled"):
        import_more(database, current, campaign.id, [person(2)])
    with pytest.raises(ConflictError, match="cancelled"):
        extend(database, campaign.id)
    assert len(people(database)) == 1


def test_only_a_started_campaign_can_be_extended(database: Database, current: Settings):
    campaign_id = make_campaign(database, current, [person(1)])
    with pytest.raises(ConflictError, match="must be started"):
        extend(database, campaign_id)
    with pytest.raises(NotFoundError):
        extend(database, 404)
    assert deliveries(database) == []


@pytest.mark.parametrize(
    ("line", "named"),
    [
        (person(2, langue="en"), "en × standard × email, en × standard × sms"),
        (person(2, email=None) + ";x", "fr × comment × sms"),
    ],
)
def test_a_list_that_needs_a_text_nobody_approved_changes_nothing(
    database: Database, current: Settings, line: str, named: str
):
    campaign = start_campaign(database, current, [person(1)])
    before = people(database), deliveries(database)
    with pytest.raises(ConflictError, match=named):
        import_more(database, current, campaign.id, [person(1, email="new@example.org") + ";", line], WITH_COMMENT)
    assert (people(database), deliveries(database)) == before
    with database.staff() as session:
        assert session.scalar(text("SELECT count(*) FROM list_file")) == 1
        assert session.scalar(text("SELECT count(*) FROM contact")) == 2


def test_a_language_that_has_no_notices_is_written_to_in_the_first_one(database: Database, current: Settings):
    campaign = start_campaign(database, current, [person(1)])
    import_more(database, current, campaign.id, [person(2, langue="pt")])
    provider = FakeProvider()
    assert run(current, provider, campaign.id, campaign.epoch) == 2


def test_a_corrected_contact_is_written_to_instead_of_the_old_one(database: Database, current: Settings):
    campaign = start_campaign(database, current, [person(1, email="wrong@example.org", phone=None)])
    import_more(database, current, campaign.id, [person(1, email="right@example.org", phone=None)])
    provider = FakeProvider()
    run(current, provider, campaign.id, campaign.epoch)
    assert sent_to(provider) == ["right@example.org"]
    assert deliveries(database) == [("email", "cancelled", "withdrawn"), ("email", "accepted", "accepted")]
    settle(database, current, after=LATER)
    assert people(database) == [("informed", None)]


def test_a_corrected_contact_of_somebody_told_is_saved_and_not_written_to(database: Database, current: Settings):
    campaign = start_campaign(database, current, [person(1)])
    run(current, FakeProvider(), campaign.id, campaign.epoch)
    settle(database, current, after=LATER)
    import_more(database, current, campaign.id, [person(1, email="new@example.org", phone="06 39 98 77 77")])
    for channel in Channel:
        provider = FakeProvider(channel)
        run(current, provider, campaign.id, campaign.epoch)
        assert provider.sent == []
    assert len(deliveries(database)) == 1
    with database.staff() as session:
        assert session.scalar(text("SELECT count(*) FROM contact")) == 4
        assert session.scalar(text("SELECT count(*) FROM patient_contact")) == 2


def test_told_at_a_contact_that_a_list_replaces_is_a_doubt_and_never_silent(database: Database, current: Settings):
    campaign = start_campaign(database, current, [person(1), person(2), person(3), person(4)])
    run(current, FakeProvider(), campaign.id, campaign.epoch)
    corrected = [
        person(1, email="new@example.org"),
        person(2),
        # keeps the contact that was written to
        person(3, email="patient3@example.org; also@example.org"),
        person(4, email="late@example.org", decede="oui"),
    ]
    taken = import_more(database, current, campaign.id, corrected)
    with database.staff() as session:
        told = text('SELECT row, "column" FROM list_problem WHERE list_file_id = :id AND reason = :reason')
        values = {"id": taken.id, "reason": "told_at_a_contact_since_replaced"}
        assert [tuple(row) for row in session.execute(told, values)] == [(2, "email")]
    settle(database, current, after=LATER)
    again = FakeProvider()
    run(current, again, campaign.id, campaign.epoch)
    assert sent_to(again) == [], "told is told: another message is a person's to decide"


def test_who_could_not_be_reached_is_written_to_where_the_list_has_a_new_contact(
    database: Database, current: Settings
):
    lines = [person(number, phone=None) for number in (1, 2)]
    campaign = start_campaign(database, current, lines)
    run(current, FakeProvider(answer=lambda _: REFUSED), campaign.id, campaign.epoch)
    settle(database, current)
    assert people(database) == [("unreached", "all_failed")] * 2
    import_more(database, current, campaign.id, [person(1, email="new@example.org", phone=None), lines[1]])
    provider = FakeProvider()
    run(current, provider, campaign.id, campaign.epoch)
    assert sent_to(provider) == ["new@example.org"]
    settle(database, current, after=LATER)
    assert people(database) == [("informed", None), ("unreached", "all_failed")]


def test_who_loses_every_contact_is_unreached_with_the_reason(database: Database, current: Settings):
    campaign = start_campaign(database, current, [person(1), person(2)])
    import_more(database, current, campaign.id, [person(1, email=None, phone=None), person(2)])
    assert people(database) == [("unreached", "no_contact"), ("on_the_way", None)]
    provider = FakeProvider()
    run(current, provider, campaign.id, campaign.epoch)
    assert sent_to(provider) == ["patient2@example.org"]
    settle(database, current)
    assert people(database)[0] == ("unreached", "no_contact")


def test_patients_gone_from_a_newer_list_stay_and_are_told(database: Database, current: Settings):
    campaign = start_campaign(database, current, [person(1), person(2)])
    import_more(database, current, campaign.id, [person(3)])
    provider = FakeProvider()
    run(current, provider, campaign.id, campaign.epoch)
    assert sent_to(provider) == [f"patient{number}@example.org" for number in (1, 2, 3)]
    assert outcomes(database, campaign.id)["imported"] == 3


def test_a_death_withdraws_what_is_not_sent_and_is_undone_by_a_further_list(database: Database, current: Settings):
    campaign = start_campaign(database, current, [person(1), person(2)])
    import_more(database, current, campaign.id, [person(1, decede="oui")])
    assert people(database) == [("excluded", "deceased"), ("on_the_way", None)]
    provider = FakeProvider()
    run(current, provider, campaign.id, campaign.epoch)
    settle(database, current)
    assert sent_to(provider) == ["patient2@example.org"]
    assert people(database)[0] == ("excluded", "deceased")
    import_more(database, current, campaign.id, [person(1, decede="non")])
    assert people(database)[0] == ("on_the_way", None)
    again = FakeProvider()
    run(current, again, campaign.id, campaign.epoch)
    assert sent_to(again) == ["patient1@example.org"]
    assert len(deliveries(database)) == 2, "the one that was withdrawn"


def test_who_was_told_while_excluded_is_informed_once_no_longer_excluded_and_not_told_again(
    database: Database, current: Settings
):
    campaign = start_campaign(database, current, [person(1)])
    run(current, FakeProvider(), campaign.id, campaign.epoch)
    import_more(database, current, campaign.id, [person(1, decede="oui")])
    settle(database, current, after=LATER)
    assert people(database) == [("excluded", "deceased")]
    import_more(database, current, campaign.id, [person(1, decede="non")])
    assert people(database) == [("informed", None)]
    assert len(deliveries(database)) == 1


def test_an_excluded_patient_without_a_contact_becomes_unreached_and_excluded_again(
    database: Database, current: Settings
):
    campaign = start_campaign(database, current, [person(1, email=None, phone=None, decede="oui"), person(2)])
    expected = {"non": ("unreached", "no_contact"), "oui": ("excluded", "deceased")}
    for dead in ("non", "oui"):
        import_more(database, current, campaign.id, [person(1, email=None, phone=None, decede=dead)])
        assert people(database)[0] == expected[dead]


def test_a_pending_message_with_a_text_that_no_longer_fits_is_made_anew(database: Database, current: Settings):
    lines = [person(1) + ";", person(2, langue="en") + ";x"]
    campaign_id = make_campaign(database, current, [person(3)])
    import_more(database, current, campaign_id, lines, WITH_COMMENT)
    with database.staff() as session:
        shown = acts.draft(session, current, campaign_id)
        acts.approve(session, current, campaign_id, expected_hash=shown.hash, actor="x", now=datetime.now(UTC))
        acts.start(session, campaign_id, actor="x", now=datetime.now(UTC))
    import_more(
        database,
        current,
        campaign_id,
        [person(1, langue="en") + ";", person(2, langue="en") + ";non"],
        WITH_COMMENT,
    )
    import_more(
        database,
        current,
        campaign_id,
        [person(1, langue="en") + ";x", person(2, langue="fr") + ";non"],
        WITH_COMMENT,
    )
    with database.staff() as session:
        rows = session.execute(
            text(
                "SELECT p.id, d.language, d.variant FROM delivery d JOIN patient p ON p.id = d.addressee_id "
                "WHERE d.state = 'pending' ORDER BY p.id"
            )
        )
        assert [tuple(row)[1:] for row in rows] == [("fr", "standard"), ("en", "comment"), ("fr", "standard")]


def test_a_household_keeps_its_one_sms_until_nobody_of_it_is_to_be_told(database: Database, current: Settings):
    shared = "06 39 98 55 55"
    lines = [person(number, email=None, phone=shared) for number in (1, 2)]
    campaign = start_campaign(database, current, lines)
    import_more(database, current, campaign.id, [person(1, email=None, phone=None)])
    assert deliveries(database) == [("sms", "pending", None)]
    import_more(database, current, campaign.id, [person(3, email=None, phone=shared)])
    assert deliveries(database) == [("sms", "pending", None)], "the new one joins it"
    import_more(database, current, campaign.id, [person(2, email=None, phone=shared, decede="oui")])
    assert deliveries(database) == [("sms", "pending", None)]
    import_more(database, current, campaign.id, [person(3, email=None, phone="06 39 98 66 66")])
    assert deliveries(database) == [("sms", "cancelled", "withdrawn"), ("sms", "pending", None)]
    provider = FakeProvider(Channel.SMS)
    run(current, provider, campaign.id, campaign.epoch)
    assert sent_to(provider) == ["+33639986666"]


def test_an_sms_that_was_delivered_to_a_household_also_tells_a_new_member(database: Database, current: Settings):
    shared = "06 39 98 55 55"
    campaign = start_campaign(database, current, [person(1, email=None, phone=shared)])
    run(current, FakeProvider(Channel.SMS), campaign.id, campaign.epoch)
    with database.staff() as session:
        session.execute(text("UPDATE delivery SET state = 'delivered', due_at = now()"))
    settle(database, current)
    import_more(database, current, campaign.id, [person(2, email=None, phone=shared)])
    settle(database, current, after=timedelta(seconds=1))
    assert people(database) == [("informed", None)] * 2
    assert len(deliveries(database)) == 1


def test_what_comes_back_from_a_worker_for_a_contact_taken_away_is_not_sent_again(
    database: Database, current: Settings
):
    campaign = start_campaign(database, current, [person(1, email="wrong@example.org"), person(2)])

    def correct(message: Message) -> Outcome:
        """While the call is under way, the list comes that takes the address away."""
        if message.recipient == "wrong@example.org":
            import_more(database, current, campaign.id, [person(1, email="right@example.org")])
        return AGAIN_LATER

    run(current, FakeProvider(answer=correct), campaign.id, campaign.epoch)
    with database.staff() as session:
        session.execute(text("UPDATE delivery SET due_at = now() WHERE state = 'pending'"))
    provider = FakeProvider()
    run(current, provider, campaign.id, campaign.epoch)
    settle(database, current)
    run(current, provider, campaign.id, campaign.epoch)
    assert sent_to(provider) == ["patient2@example.org", "right@example.org"]
    assert outcomes(database, campaign.id)["on_the_way"] == 2


def test_a_contact_given_back_while_another_is_tried_is_tried_after_it(database: Database, current: Settings):
    campaign = start_campaign(database, current, [person(1, email="a@example.org", phone=None)])
    import_more(database, current, campaign.id, [person(1, email="b@example.org", phone=None)])
    import_more(database, current, campaign.id, [person(1, email='"b@example.org; a@example.org"', phone=None)])
    provider = FakeProvider(answer=lambda _: REFUSED)
    for _ in range(3):
        run(current, provider, campaign.id, campaign.epoch)
        settle(database, current)
    assert [message.recipient for message in provider.sent] == ["b@example.org", "a@example.org"]
    assert people(database) == [("unreached", "all_failed")]


def test_extending_again_and_again_changes_nothing(database: Database, current: Settings):
    campaign = start_campaign(database, current, [person(number) for number in range(6)])
    run(current, FakeProvider(answer=lambda _: REFUSED), campaign.id, campaign.epoch, claim_rows=3)
    import_more(database, current, campaign.id, [person(0, email=None), person(1, decede="oui"), person(7)])
    before = people(database), deliveries(database)
    for _ in range(2):
        done = extend(database, campaign.id)
        assert done.counts() == {"withdrawn": 0, "given": 0, "informed": 0, "unreached": 0}
        assert (people(database), deliveries(database)) == before


# --- with workers at the same time ---------------------------------------------------------------------------


class Hands:
    """A worker's hands: the real claim and intent, held in an open transaction where a test wants to."""

    def __init__(self, current: Settings, campaign: Campaign) -> None:
        self.database = store.AsyncDatabase(current.sqlalchemy_url)
        self.campaign = campaign
        self.whole = {"epoch": campaign.epoch, "channel": Channel.EMAIL, "provider": "smtp"}
        with Database(current.sqlalchemy_url).staff() as session:
            self.notice = session.scalar(text("SELECT id FROM notice WHERE channel = 'email'"))

    async def claim(self) -> store.Claim:
        async with self.database.hot() as connection:
            claim = await store.claim(
                connection,
                campaign_id=self.campaign.id, owner="test", lease=timedelta(seconds=60), rows=50, hints=50,
                **self.whole,
            )  # fmt: skip
        assert claim is not None
        return claim

    async def intend(self, connection: store.Hot, claim: store.Claim) -> set[int]:
        rows = [(row.id, row.fence, self.notice) for row in claim.rows]
        lease = {"lease_id": claim.lease, "lease": timedelta(seconds=60)}
        return await store.intend(connection, rows, **lease, **self.whole)


def waits_for_a_lock(database: Database) -> bool:
    with database.engine.connect() as connection:
        found = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock')"
        return bool(connection.scalar(text(found)))


CORRECTED = [person(1, email="right@example.org"), person(2, decede="oui")]


def test_what_is_claimed_and_not_yet_marked_is_withdrawn(database: Database, current: Settings):
    campaign = start_campaign(database, current, [person(1, email="wrong@example.org"), person(2), person(3)])
    hands = Hands(current, campaign)

    async def claimed_before_the_list() -> set[int]:
        claim = await hands.claim()
        await asyncio.to_thread(import_more, database, current, campaign.id, CORRECTED)
        async with hands.database.hot() as connection:
            return await hands.intend(connection, claim)

    assert len(asyncio.run(claimed_before_the_list())) == 1
    assert [state for _, state, _ in deliveries(database)] == ["cancelled", "cancelled", "sending", "pending"]


def test_a_worker_that_claimed_before_a_list_changed_the_language_does_not_send_the_old_text(
    database: Database, current: Settings
):
    """The same row is needed again at once, in another language: the worker's claim of it must not count."""
    campaign = start_campaign(database, current, [person(1), person(2, langue="en")])
    hands = Hands(current, campaign)

    async def claimed_before_the_list() -> set[int]:
        claim = await hands.claim()
        await asyncio.to_thread(import_more, database, current, campaign.id, [person(1, langue="en")])
        async with hands.database.hot() as connection:
            return await hands.intend(connection, claim)

    assert len(asyncio.run(claimed_before_the_list())) == 1
    assert [state for _, state, _ in deliveries(database)] == ["pending", "sending"]


def test_a_list_waits_for_rows_being_marked_and_leaves_them_to_the_worker(database: Database, current: Settings):
    campaign = start_campaign(database, current, [person(1, email="wrong@example.org"), person(2), person(3)])
    hands = Hands(current, campaign)

    async def marked_while_the_list_comes() -> set[int]:
        claim = await hands.claim()
        async with hands.database.hot() as connection, connection.transaction():
            going = await hands.intend(connection, claim)
            waiting = asyncio.create_task(
                asyncio.to_thread(import_more, database, current, campaign.id, CORRECTED)
            )
            await asyncio.to_thread(until, lambda: waits_for_a_lock(database))
        await waiting
        return going

    assert len(asyncio.run(marked_while_the_list_comes())) == 3
    assert [state for _, state, _ in deliveries(database)] == ["sending"] * 3
    assert [outcome for outcome, _ in people(database)] == ["on_the_way", "excluded", "on_the_way"]


def test_a_worker_waits_for_a_list_being_saved_and_does_not_mark_what_it_took_back(
    database: Database, current: Settings
):
    campaign = start_campaign(database, current, [person(1, email="wrong@example.org"), person(2), person(3)])
    hands = Hands(current, campaign)
    data = "\n".join([HEADER, *CORRECTED, ""]).encode()

    async def marked_before_the_commit() -> set[int]:
        claim = await hands.claim()
        with database.staff() as session:
            acts.import_list(session, current, campaign.id, io.BytesIO(data), actor="x", now=datetime.now(UTC))

            async def mark() -> set[int]:
                async with hands.database.hot() as connection:
                    return await hands.intend(connection, claim)

            marking = asyncio.create_task(mark())
            await asyncio.to_thread(until, lambda: waits_for_a_lock(database))
            session.commit()
        return await marking

    assert len(asyncio.run(marked_before_the_commit())) == 1
    assert [state for _, state, _ in deliveries(database)] == ["cancelled", "cancelled", "sending", "pending"]


def test_lists_that_come_while_everybody_is_being_sent_to_tell_nobody_twice(database: Database, current: Settings):
    campaign = start_campaign(database, current, [person(number, phone=None) for number in range(60)])
    provider = FakeProvider()
    saved: dict[int, set[str]] = {}

    def lists() -> None:
        """Each takes the addresses of five people away and gives them others, excludes five, and adds two."""
        for turn in range(4):
            corrected = range(turn * 10, turn * 10 + 5)
            lines = [person(number, email=f"new{number}@example.org", phone=None) for number in corrected]
            lines += [person(number + 5, phone=None, decede="oui") for number in corrected]
            lines += [person(100 + turn * 2 + number, phone=None) for number in range(2)]
            import_more(database, current, campaign.id, lines)
            saved[len(provider.sent)] = {
                f"patient{number}@example.org" for number in range(turn * 10, turn * 10 + 10)
            }

    async def at_once() -> None:
        async with Engine(current, provider, claim_rows=5, intent_rows=2) as sender:
            importing = asyncio.create_task(asyncio.to_thread(lists))
            while not importing.done():
                await sender.work(campaign.id, campaign.epoch)
            await importing
            # A claim may find nothing but rows that a list has taken away: the feeder would ask again.
            while states(database).get("pending"):
                await sender.work(campaign.id, campaign.epoch)

    asyncio.run(at_once())
    patients = Counter(
        message.recipient.removeprefix("new").removeprefix("patient").partition("@")[0]
        for message in provider.sent
    )
    assert max(patients.values()) == 1
    settle(database, current, after=LATER)
    counts = outcomes(database, campaign.id)
    assert counts["on_the_way"] == counts["unreached"] == 0
    assert counts["informed"] + counts["excluded"] == 68
    assert len(patients) >= counts["informed"]


def test_it_goes_on_where_it_was_killed(database: Database, current: Settings):
    campaign = start_campaign(database, current, [person(number, phone=None) for number in range(12)])
    lines = [person(number, email=f"new{number}@example.org", phone=None) for number in range(6)]
    lines += [person(number, phone=None) for number in range(20, 26)]
    with pytest.MonkeyPatch.context() as patch:
        # as if each piece were its own transaction, and the process had gone after the list was saved
        patch.setattr(fanout, "extend_all", lambda *_, **__: fanout.Extended())
        listed = import_more(database, current, campaign.id, lines)
    after: int | None = 0
    for number in range(10):
        with database.staff() as session:
            pid = session.scalar(text("SELECT pg_backend_pid()"))
            piece = fanout.extend(
                session, campaign.id, now=datetime.now(UTC), list_id=listed.id, after=after or 0, limit=3
            )
            if number == 1:
                with database.engine.connect() as other:
                    other.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
                with pytest.raises(OperationalError):
                    session.execute(text("SELECT 1"))
                session.invalidate()
                continue
        after = piece.last
        if after is None:
            break
    assert after is None
    provider = FakeProvider()
    run(current, provider, campaign.id, campaign.epoch)
    expected = [f"new{number}@example.org" for number in range(6)]
    expected += [f"patient{number}@example.org" for number in (*range(6, 12), *range(20, 26))]
    assert sent_to(provider) == sorted(expected)


def test_an_import_that_is_killed_before_its_end_leaves_everything_as_it_was(
    database: Database, current: Settings
):
    campaign = start_campaign(database, current, [person(1), person(2)])
    before = people(database), deliveries(database)
    data = "\n".join([HEADER, *CORRECTED, person(3), ""]).encode()
    with database.staff() as session:
        pid = session.scalar(text("SELECT pg_backend_pid()"))
        acts.import_list(session, current, campaign.id, io.BytesIO(data), actor="x", now=datetime.now(UTC))
        with database.engine.connect() as other:
            other.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
        with pytest.raises(OperationalError):
            session.execute(text("SELECT 1"))
        session.invalidate()
    assert (people(database), deliveries(database)) == before
