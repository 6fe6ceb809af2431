"""The database keeps its promises: roles, row-level security, append-only tables, models as migrated."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from notifier import models, store
from notifier.errors import ServiceError
from notifier.models import Campaign, PatientTally
from notifier.rehearsal.servers import Postgres
from notifier.states import Channel
from notifier.store import Database
from tests.factories import make_settings, person, start_campaign


def _doctor(session, number: int) -> models.Doctor:
    doctor = models.Doctor(
        reference=f"1000000000{number}",
        name=f"Dr Exemple {number}",
        practice="Cabinet",
        address="1 rue de l'Exemple, 00000 Ville",
        phone="+33199001234",
        email=f"doctor{number}@example.org",
    )
    session.add(doctor)
    session.flush()
    return doctor


def _campaign(session, doctor: models.Doctor) -> models.Campaign:
    incident = session.query(models.Incident).first()
    if incident is None:
        incident = models.Incident(reference="incident", profile="eu-gdpr-fr", facts={})
        session.add(incident)
        session.flush()
    campaign = models.Campaign(incident_id=incident.id, doctor_id=doctor.id)
    session.add(campaign)
    session.flush()
    return campaign


def test_a_migrated_database_is_what_the_models_say(database: Database):
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, models.Base.metadata) == []


def test_every_table_of_a_doctor_has_row_level_security(database: Database):
    owned = {table.name for table in models.Base.metadata.tables.values() if "doctor_id" in table.columns}
    owned = owned - {"api_key"} | {"doctor", "incident", "tally", "patient_tally", "bounce"}
    with database.engine.connect() as connection:
        secured = set(connection.scalars(text("SELECT relname FROM pg_class WHERE relrowsecurity")))
    assert secured == owned


def test_a_doctor_sees_only_their_own_rows(database: Database):
    with database.staff() as session:
        mine, other = _doctor(session, 1), _doctor(session, 2)
        _campaign(session, mine)
        theirs = _campaign(session, other)
    with database.doctor(mine.id) as session:
        assert [doctor.id for doctor in session.query(models.Doctor)] == [mine.id]
        assert [campaign.doctor_id for campaign in session.query(models.Campaign)] == [mine.id]
        assert not store.moved(session, theirs.id, store.Campaign.READY)
    for values in (
        {"campaign_id": theirs.id, "doctor_id": other.id},
        {"campaign_id": theirs.id, "doctor_id": mine.id},
    ):
        with database.doctor(mine.id) as session:
            session.add(models.Contact(channel="email", value_blind=b"b", value_sealed=b"s", **values))
            with pytest.raises(DBAPIError, match="row-level security"):
                session.flush()
            session.rollback()


def test_a_doctor_can_neither_make_a_campaign_nor_erase_its_people(database: Database):
    with database.staff() as session:
        campaign = _campaign(session, _doctor(session, 1))
    for statement in (
        "UPDATE campaign SET data_key = NULL",
        "UPDATE campaign SET doctor_id = 1",
        "INSERT INTO campaign (incident_id, doctor_id) VALUES (1, 1)",
        "UPDATE incident SET facts = '{}'",
        "DELETE FROM patient",
    ):
        with database.doctor(campaign.doctor_id) as session:
            with pytest.raises(DBAPIError, match="permission denied"):
                session.execute(text(statement))
            session.rollback()


def test_a_doctor_sees_the_incidents_of_their_own_campaigns_only(database: Database):
    with database.staff() as session:
        mine, other = _doctor(session, 1), _doctor(session, 2)
        _campaign(session, mine)
        session.add(models.Incident(reference="another", profile="eu-gdpr-fr", facts={}))
    with database.doctor(mine.id) as session:
        assert [incident.reference for incident in session.query(models.Incident)] == ["incident"]
    with database.doctor(other.id) as session:
        assert session.query(models.Incident).count() == 0


def test_api_keys_are_out_of_a_doctors_reach(database: Database):
    with database.doctor(1) as session, pytest.raises(DBAPIError, match="permission denied"):
        session.execute(text("SELECT * FROM api_key"))


def test_a_transaction_without_a_doctor_sees_nothing(database: Database):
    with database.staff() as session:
        _doctor(session, 1)
        session.execute(text("SELECT set_config('role', 'notifier_doctor', true)"))
        assert session.query(models.Doctor).count() == 0


def test_neither_role_can_bypass_row_level_security(database: Database):
    with database.engine.connect() as connection:
        rows = connection.execute(
            text(
                "SELECT rolname, rolsuper, rolbypassrls, rolcanlogin FROM pg_roles WHERE rolname LIKE 'notifier%'"
            )
        ).all()
    assert sorted(rows) == [
        ("notifier_doctor", False, False, False),
        ("notifier_staff", False, False, False),
    ]


def test_the_journal_is_a_chain_that_shows_any_tampering(database: Database):
    with database.staff() as session:
        for number in range(3):
            store.record(session, "cli:test", "incident.create", f"incident:{number}", detail={"n": number})
        assert store.broken_journal_entries(session) == []
        ids = [entry.id for entry in session.query(models.Journal).order_by(models.Journal.id)]
    with database.engine.begin() as connection:  # as the owner, who alone can switch the trigger off
        connection.execute(text("ALTER TABLE journal DISABLE TRIGGER append_only"))
        connection.execute(text("UPDATE journal SET actor = 'cli:someone' WHERE id = :id"), {"id": ids[1]})
    with database.staff() as session:
        assert store.broken_journal_entries(session) == [ids[1]]


@pytest.mark.parametrize(
    "statement", ["UPDATE journal SET actor = 'x'", "DELETE FROM journal", "TRUNCATE journal"]
)
def test_the_journal_cannot_be_changed_even_by_its_owner(database: Database, statement: str):
    with database.staff() as session:
        store.record(session, "cli:test", "incident.create", "incident:1")
    with database.engine.connect() as connection, pytest.raises(DBAPIError, match="cannot be changed"):
        connection.execute(text(statement))


def test_a_database_without_migrations_is_refused_by_name(postgres):
    url = postgres.start().replace("postgresql://", "postgresql+psycopg://", 1)
    bare = Database(url)
    with pytest.raises(ServiceError, match="notifier migrate"):
        bare.check()
    bare.dispose()


def test_a_dead_database_is_named_not_traced(tmp_path):
    gone = Database(f"postgresql+psycopg://postgres@/notifier?host={tmp_path}")
    with pytest.raises(ServiceError, match="PostgreSQL does not answer"):
        gone.check()


def test_a_migrated_database_passes_the_check_and_migrates_again_without_change(database: Database):
    store.migrate(database.url)
    database.check()


def test_an_old_postgresql_is_refused_by_name():
    class Old:
        def scalar(self, _):
            return "140011"

    with pytest.raises(ServiceError, match="PostgreSQL 14 is too old: 15"):
        store.check_version(Old())


def test_an_ordinary_user_with_createrole_can_migrate_and_then_work(server_dir):
    """As docs/operations.md promises; from PostgreSQL 16 on, making a role does not allow to take it on."""
    server = Postgres(server_dir / "other", durable=False)
    url = make_url(server.start()).set(drivername="postgresql+psycopg")
    try:
        owner = Database(url.render_as_string(hide_password=False))
        with owner.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("CREATE ROLE app LOGIN CREATEROLE"))
            connection.execute(text("CREATE DATABASE own OWNER app"))
        owner.dispose()
        as_app = url.set(username="app", database="own").render_as_string(hide_password=False)
        store.migrate(as_app)
        store.migrate(as_app)
        database = Database(as_app)
        database.check()
        with database.staff() as session:
            doctor = _doctor(session, 1)
        with database.doctor(doctor.id) as session:
            assert session.query(models.Doctor).count() == 1
        database.dispose()
    finally:
        server.stop()


def test_a_user_who_may_not_act_as_the_two_roles_is_told_how_to_mend_it(postgres, template_database):
    url = make_url(postgres.start()).set(drivername="postgresql+psycopg")
    owner = Database(url.render_as_string(hide_password=False))
    with owner.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("CREATE ROLE stranger LOGIN"))
    owner.dispose()
    database = Database(
        url.set(username="stranger", database=template_database).render_as_string(hide_password=False)
    )
    with pytest.raises(ServiceError, match=r"GRANT|may not"):
        database.check()
    database.dispose()


# --- hints and tally -----------------------------------------------------------------------------------------


def tallied(session: Session) -> dict[str, int]:
    rows = session.execute(text("SELECT state, sum(n) AS n FROM tally GROUP BY state HAVING sum(n) <> 0")).all()
    return {row.state: int(row.n) for row in rows}


def counted(session: Session) -> dict[str, int]:
    return {
        row.state: row.n for row in session.execute(text("SELECT state, count(*) AS n FROM delivery GROUP BY 1"))
    }


def hinted(session: Session, kind: str) -> list[int]:
    return sorted(session.scalars(text("SELECT unnest(ids) FROM due WHERE kind = :kind"), {"kind": kind}))


def test_every_change_of_a_delivery_leaves_a_hint_and_its_difference(database: Database, database_url: str):
    current = make_settings(database_url)
    start_campaign(database, current, [person(number, phone=None) for number in range(120)])
    with database.staff() as session:
        assert len(hinted(session, "send")) == 120
        assert session.scalar(text("SELECT count(*) FROM due")) == 3, "fifty deliveries share a hint"
        assert tallied(session) == counted(session) == {"pending": 120}
        session.execute(text("DELETE FROM due"))
        session.execute(text("UPDATE delivery SET state = 'sending' WHERE id % 2 = 0"))
        assert (hinted(session, "send"), hinted(session, "settle")) == ([], []), "the lease speaks for these"
        session.execute(text("UPDATE delivery SET state = 'accepted', due_at = now() WHERE id % 4 = 0"))
        assert len(hinted(session, "settle")) == 30
        session.execute(text("UPDATE delivery SET due_at = NULL WHERE id % 4 = 0"))
        assert len(hinted(session, "settle")) == 30, "a hint too many costs a look"
        assert tallied(session) == counted(session)
        store.fold_tally(session)
        assert tallied(session) == counted(session) == {"pending": 60, "sending": 30, "accepted": 30}
        assert session.scalar(text("SELECT count(*) FROM tally")) == 3


def test_every_change_of_a_patient_is_counted_where_they_stand(database: Database, database_url: str):
    campaign_id = start_campaign(database, make_settings(database_url), [person(number) for number in range(9)]).id
    with database.staff() as session:
        session.execute(
            text("UPDATE patient SET outcome = 'unreached', outcome_reason = 'all_failed' WHERE row < 4")
        )
        session.execute(text("UPDATE patient SET outcome = 'informed' WHERE row = 5"))
        session.execute(text("UPDATE patient SET merged = 2, language = 'en' WHERE row IN (3, 5)"))
        stand = Counter(session.scalars(text("SELECT outcome FROM patient")))
        for _ in range(2):
            assert store.outcome_counts(session, campaign_id) == {
                "imported": 13,
                "merged": 4,
                "excluded": 0,
                **stand,
            }
            kinds = (PatientTally.language, PatientTally.reason)
            by_kind = store.patient_counts(session, campaign_id, *kinds)
            assert {tuple(row) for row in by_kind} == {
                tuple(row)
                for row in session.execute(
                    text("SELECT language, outcome_reason, count(*), sum(merged) FROM patient GROUP BY 1, 2")
                )
            }
            store.fold_tally(session)
        rows = session.scalar(text("SELECT count(*) FROM patient_tally"))
        assert rows == session.scalar(
            text("SELECT count(*) FROM (SELECT DISTINCT language, outcome, outcome_reason FROM patient) kinds")
        )


def test_the_next_patients_come_in_order_wherever_they_stand(database: Database, database_url: str):
    current = make_settings(database_url)
    campaign_id = start_campaign(database, current, [person(number) for number in range(9)]).id
    with database.staff() as session:
        session.execute(text("UPDATE patient SET outcome = 'informed' WHERE row % 2 = 0"))
        everyone = session.scalars(text("SELECT id FROM patient ORDER BY id")).all()
        told = session.scalars(text("SELECT id FROM patient WHERE outcome = 'informed' ORDER BY id")).all()
        assert session.scalars(store.next_patients(campaign_id, 0, 100)).all() == everyone
        assert session.scalars(store.next_patients(campaign_id, everyone[2], 4)).all() == everyone[3:7]
        assert session.scalars(store.next_patients(campaign_id, told[0], 2, ["informed"])).all() == told[1:3]


def test_what_saw_a_crash_is_hinted_in_small_company(database: Database, database_url: str):
    start_campaign(database, make_settings(database_url), [person(number, phone=None) for number in range(25)])
    with database.staff() as session:
        session.execute(text("DELETE FROM due"))
        session.execute(text("UPDATE delivery SET crashes = 1"))
        sizes = text("SELECT cardinality(ids) FROM due WHERE NOT together ORDER BY 1")
        assert list(session.scalars(sizes)) == [5, 10, 10]
        session.execute(text("DELETE FROM due"))
        session.execute(text("UPDATE delivery SET crashes = 2"))
        assert list(session.scalars(sizes)) == [1] * 25


def test_a_lost_hint_is_found_and_made_again(database: Database, database_url: str):
    campaign = start_campaign(database, make_settings(database_url), [person(number) for number in range(5)])
    with database.staff() as session:
        assert store.rehint(session, campaign.id) == 0
        session.execute(text("DELETE FROM due"))
        assert store.rehint(session, campaign.id) == 5
        assert store.rehint(session, campaign.id) == 0
        assert len(hinted(session, "send")) == 5


def claim(database_url: str, campaign: Campaign, *, rows: int, hints: int) -> store.Claim | None:
    async def once() -> store.Claim | None:
        database = store.AsyncDatabase(make_settings(database_url).sqlalchemy_url)
        async with database.hot() as connection:
            found = await store.claim(
                connection,
                campaign_id=campaign.id,
                epoch=campaign.epoch,
                channel=Channel.EMAIL,
                provider="smtp",
                owner="test",
                lease=timedelta(seconds=60),
                rows=rows,
                hints=hints,
            )
        await database.dispose()
        return found

    return asyncio.run(once())


def test_a_claim_takes_as_many_as_asked_and_leaves_the_rest_of_a_hint(database: Database, database_url: str):
    campaign = start_campaign(
        database, make_settings(database_url), [person(number, phone=None) for number in range(60)]
    )
    taken = [claim(database_url, campaign, rows=20, hints=1) for _ in range(4)]
    assert [len(one.rows) for one in taken if one] == [20, 20, 10, 10]
    assert claim(database_url, campaign, rows=20, hints=1) is None
    assert len({row.id for one in taken if one for row in one.rows}) == 60
    with database.staff() as session:
        assert len(hinted(session, "lease")) == 60
