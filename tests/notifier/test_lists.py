"""A list is looked at before it is saved, and what was said about its columns is remembered for the next one."""

from __future__ import annotations

import io
import threading
from datetime import timedelta

import pytest
from sqlalchemy import func, select
from sqlalchemy import text as sql

from notifier import acts, controlling, lists
from notifier.corrections import Corrections
from notifier.domains import Domains
from notifier.errors import ConflictError, InputError, ListError, NotFoundError
from notifier.lists import Given
from notifier.models import Campaign, Contact, Journal, ListFile, ListMapping, ListProblem, Patient
from notifier.settings import Settings
from notifier.store import Database
from tests.factories import FACTS, NOW, make_campaign, make_doctor, make_settings, person, start_campaign

NUMBERS = "N°;Nom;Prénom;né le;Joindre\n1;Martin;Zoé;12/03/1975;0639980001\n"
SAID = {"Joindre": "phone", "N°": "patient_id"}
FIRST = (
    "id;nom;prenom;né le;email;portable\n1;Martin;Zoé;12/03/1975;z@example.fr;\n"
    "2;Durand;Luc;01/01/1975;jean@gmial.com;0639980002\n"
)


@pytest.fixture
def current(database_url: str) -> Settings:
    return make_settings(database_url)


@pytest.fixture
def campaigns(database: Database, current: Settings) -> list[int]:
    """Drafts without a list: two of one doctor, one of another."""
    with database.staff() as session:
        doctors = [make_doctor(session, 1), make_doctor(session, 2)]
        incidents = [
            acts.create_incident(session, current, f"i-{n}", "eu-gdpr-fr", FACTS, actor="cli:test") for n in (1, 2)
        ]
        pairs = [(incidents[0], doctors[0]), (incidents[1], doctors[0]), (incidents[0], doctors[1])]
        return [
            controlling.create(session, current.master, incident.id, doctor.id, actor="cli:test").id
            for incident, doctor in pairs
        ]


@pytest.fixture
def on(database: Database, current: Settings):
    """Acts on one campaign, each in a transaction of its own."""

    class On:
        now = NOW

        def look(self, campaign: int, text: str, given: Given | None = None, **options):
            with database.staff() as session:
                seen = lists.look(
                    session, current, campaign, source(text), given or Given(), now=self.now, **options
                )
                session.rollback()
                return seen

        def take(self, campaign: int, text: str, given: Given | None = None, expected: str | None = None):
            self.now += timedelta(minutes=1)
            with database.staff() as session:
                taken = lists.import_list(
                    session, current, campaign, source(text), given or Given(), actor="cli:test", now=self.now,
                    expected=expected,
                )  # fmt: skip
                session.expunge_all()
                return taken

        def accept(self, campaign: int, text: str, rows):
            self.now += timedelta(minutes=1)
            with database.staff() as session:
                _, found = lists.accept(
                    session, current, campaign, source(text), Given(), rows=rows, actor="cli:test", now=self.now
                )
                return found

    return On()


def source(text: str) -> io.BytesIO:
    return io.BytesIO(text.encode())


def count(database: Database, what) -> int:
    with database.staff() as session:
        return session.scalar(select(func.count()).select_from(what))


def by(seen) -> dict[str, tuple[str | None, str]]:
    return {column.header: (column.meaning, column.by) for column in seen.columns}


def test_a_look_says_how_each_column_is_read_and_saves_nothing(on, campaigns, database):
    seen = on.look(campaigns[0], FIRST, compare="always")
    assert by(seen)["portable"] == ("phone", "name")
    assert (seen.has_earlier, seen.is_known, seen.questions) == (False, False, [])
    assert (seen.difference.new, seen.difference.due) == (2, 2)
    assert [count(database, table) for table in (ListFile, Patient, ListMapping)] == [0, 0, 0]


def test_a_column_that_could_be_two_things_is_asked_about(on, campaigns):
    text = "id;nom;Contact\n1;Martin;z@example.fr\n"
    seen = on.look(campaigns[0], text)
    (question,) = seen.questions
    assert (question.subject, question.options) == ("Contact", ("phone", "email", "ignore"))
    assert seen.difference is None
    assert by(seen)["Contact"] == (None, "asked")
    with pytest.raises(ListError, match="could be: phone or email"):
        on.take(campaigns[0], text)
    assert by(on.take(campaigns[0], text, Given(mapping={"Contact": "email"})))["Contact"] == ("email", "given")


def test_what_was_said_is_remembered_for_the_doctor_and_this_header(on, campaigns):
    on.take(campaigns[0], NUMBERS, Given(mapping=SAID))
    newer = NUMBERS.replace("Zoé", "Zoë")
    seen = on.look(campaigns[1], newer)
    assert by(seen)["Joindre"] == ("phone", "remembered")
    assert by(seen)["Nom"] == ("last_name", "name")
    assert on.take(campaigns[1], newer).list_file.accepted == 1
    assert by(on.look(campaigns[2], newer))["Joindre"] == (None, "asked")
    assert by(on.look(campaigns[1], newer.replace("Prénom", "Prénoms usuels")))["Joindre"] == (None, "asked")


def test_what_is_said_now_wins_and_is_remembered_instead(on, campaigns, database):
    text = "id;nom;Contact;Tel\n1;Martin;z@example.fr;0639980001\n"
    on.take(campaigns[0], text, Given(mapping={"Contact": "ignore"}))
    seen = on.look(campaigns[1], text, Given(mapping={"contact": "email"}))
    assert by(seen)["Contact"] == ("email", "given")
    on.take(campaigns[1], text, Given(mapping={"contact": "email"}))
    assert by(on.look(campaigns[0], text))["Contact"] == ("email", "remembered")
    assert count(database, ListMapping) == 1


def test_the_same_file_read_in_another_way_is_not_taken_for_the_same(on, campaigns, database):
    text = "id;nom;email;Joindre\n1;Martin;z@example.fr;0639980001\n"
    on.take(campaigns[0], text)
    assert not on.take(campaigns[0], text).is_new
    assert on.take(campaigns[0], text, Given(mapping={"Joindre": "phone"})).is_new
    with database.staff() as session:
        assert set(session.scalars(select(Contact.channel))) == {"email", "sms"}


def test_a_further_list_shows_the_difference_first(on, campaigns):
    on.take(campaigns[0], FIRST)
    seen = on.look(campaigns[0], FIRST.replace("2;Durand", "3;Roux"))
    assert seen.has_earlier
    assert (seen.difference.new, seen.difference.unchanged, seen.difference.gone) == (1, 1, 1)
    assert on.look(campaigns[0], FIRST).is_known
    assert on.look(campaigns[0], FIRST, compare="never").difference is None


@pytest.mark.parametrize("what", ["file", "mapping", "lists", "lists and file"])
def test_what_is_imported_is_what_was_shown(on, campaigns, what):
    token = on.look(campaigns[0], FIRST).token
    text, given = FIRST, Given()
    if "file" in what:
        text += "3;Roux;Max;;m@example.fr;\n"
    if what == "mapping":
        given = Given(mapping={"portable": "ignore"})
    if "lists" in what:
        on.take(campaigns[0], FIRST + "4;Blanc;Éva;;e@example.fr;\n")
    with pytest.raises(ConflictError, match="not what was shown"):
        on.take(campaigns[0], text, given, expected=token)
    assert on.take(campaigns[0], text, given, expected=on.look(campaigns[0], text, given).token).is_new


def test_who_looked_before_an_approval_does_not_void_it_unseen(on, campaigns, database, current):
    on.take(campaigns[0], FIRST)
    further = FIRST + "3;Roux;Max;;m@example.fr;\n"
    tokens = {text: on.look(campaigns[0], text).token for text in (FIRST, further)}
    with database.staff() as session:
        shown = acts.draft(session, current, campaigns[0]).hash
        acts.approve(session, current, campaigns[0], expected_hash=shown, actor="user:1", now=NOW)
    for text, token in tokens.items():  # also the list that is there already
        with pytest.raises(ConflictError, match="not what was shown"):
            on.take(campaigns[0], text, expected=token)
    with database.staff() as session:
        assert session.get_one(Campaign, campaigns[0]).state == "approved"
    assert on.take(campaigns[0], further, expected=on.look(campaigns[0], further).token).is_new


def test_what_an_import_is_decided_by_is_read_under_its_lock(on, campaigns, database, current):
    """Another import that is not committed yet: the second waits for it, and then sees that it is another list."""
    token = on.look(campaigns[0], FIRST).token
    took, refused = threading.Event(), []

    def second() -> None:
        took.set()
        try:
            on.take(campaigns[0], FIRST, expected=token)
        except ConflictError as error:
            refused.append(error)

    with database.staff() as session:
        other = FIRST.replace("2;Durand", "3;Roux")
        lists.import_list(session, current, campaigns[0], source(other), Given(), actor="cli:test", now=NOW)
        waiter = threading.Thread(target=second)
        waiter.start()
        took.wait(30)
        waits = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        while not session.scalar(sql(waits)):
            pass
    waiter.join(30)
    assert len(refused) == 1
    assert count(database, ListFile) == 1


def test_a_corrected_file_changes_only_its_rows(on, campaigns, database, current):
    on.take(campaigns[0], FIRST)
    with (
        database.staff() as session,
        lists.opened(session, current, campaigns[0], source(FIRST), Given(), now=NOW) as this,
    ):
        content = b"".join(Corrections(this.reader, this.setting, "fr")).decode()
    filled = content.replace("jean@gmial.com", "luc@example.fr", 1)
    seen = on.look(campaigns[0], filled)
    assert (seen.difference.new, seen.difference.changed, seen.difference.gone) == (0, 1, 1)
    on.take(campaigns[0], filled)
    assert count(database, Patient) == 2
    assert count(database, Contact) == 3


SEVERAL_ROWS = (
    "id;nom;prenom;né le;email;portable\n1;Petit;Ana;1/2/1980;ana@example.fr;0639980001\n"
    "2;Roux;Max;2/2/1980;max@example.fr;0639980002\n1;Petit;Ana;1/2/1980;b@gmial.com;06 39 98 XX XX\n"
)


def contacts(database: Database) -> list[tuple[int, str, int]]:
    """(patient, channel, contacts)"""
    with database.staff() as session:
        found = session.execute(
            sql(
                "SELECT patient_id, channel, count(*) FROM patient_contact k JOIN contact c ON c.id = k.contact_id "
                "GROUP BY 1, 2 ORDER BY 1, 2"
            )
        )
        return [tuple(row) for row in found]


def test_corrections_sent_back_as_they_are_take_no_contact_away(on, campaigns, database, current):
    on.take(campaigns[0], SEVERAL_ROWS)
    before = contacts(database)
    with (
        database.staff() as session,
        lists.opened(session, current, campaigns[0], source(SEVERAL_ROWS), Given(), now=NOW) as this,
    ):
        content = b"".join(Corrections(this.reader, this.setting, "fr")).decode()
    difference = on.look(campaigns[0], content).difference
    assert (difference.changed, difference.unchanged, difference.gone) == (0, 1, 1)
    on.take(campaigns[0], content)
    assert contacts(database) == before


def test_an_accepted_row_leaves_the_contacts_of_the_patients_other_rows(on, campaigns, database):
    on.take(campaigns[0], SEVERAL_ROWS)
    first, *others = contacts(database)
    assert (first[1], first[2]) == ("email", 1)
    on.accept(campaigns[0], SEVERAL_ROWS, [4])
    assert contacts(database) == [(first[0], "email", 2), *others]


def test_a_corrected_file_is_read_as_its_list_was(on, campaigns, database, current):
    text = NUMBERS + "2;Durand;Luc;01/01/1975;06 39 98 XX XX\n"
    on.take(campaigns[0], text, Given(mapping=SAID))
    with (
        database.staff() as session,
        lists.opened(session, current, campaigns[0], source(text), Given(), now=NOW) as this,
    ):
        content = b"".join(Corrections(this.reader, this.setting, "fr")).decode()
    assert by(on.look(campaigns[0], content))["Joindre"] == ("phone", "remembered")


def test_an_accepted_suggestion_is_used_and_nothing_else_changes(on, campaigns, database):
    on.take(campaigns[0], FIRST)
    assert [one.row for one in on.accept(campaigns[0], FIRST, [3])] == [3]
    assert count(database, Patient) == 2
    with database.staff() as session:
        channels = session.scalars(select(Contact.channel).order_by(Contact.channel)).all()
        assert channels == ["email", "email", "sms"]
        entry = session.scalars(select(Journal).where(Journal.action == "suggestion.accept")).one()
        assert entry.detail["rows"] == [3]
        assert "gmail" not in str(entry.detail)


def test_suggestions_of_a_list_that_was_not_imported_are_not_accepted(on, campaigns):
    with pytest.raises(ConflictError, match="import it first"):
        on.accept(campaigns[0], FIRST, [3])
    on.take(campaigns[0], FIRST)
    with pytest.raises(InputError, match="Row 2 has no suggestion"):
        on.accept(campaigns[0], FIRST, [2])


def test_a_suggestion_of_an_older_list_does_not_take_back_what_a_newer_one_says(on, campaigns):
    third = "3;Roux;Ana;02/01/1975;ana@gmial.com;\n"
    on.take(campaigns[0], FIRST + third)
    on.take(campaigns[0], FIRST.replace("jean@gmial.com", "jean.durand@example.fr"))
    with pytest.raises(ConflictError, match="newest list"):
        on.accept(campaigns[0], FIRST + third, [3])
    with pytest.raises(ConflictError, match="newest list"):
        on.accept(campaigns[0], FIRST + third, None)
    # whom the newer list leaves as they are
    assert [one.row for one in on.accept(campaigns[0], FIRST + third, [4])] == [4]


def test_an_older_list_again_undoes_a_wrong_one_and_the_newest_again_does_nothing(on, campaigns, database):
    wrong = FIRST.replace("z@example.fr", "wrong@example.fr")
    right, other = on.take(campaigns[0], FIRST), on.take(campaigns[0], wrong)
    seen = on.look(campaigns[0], FIRST)
    assert (seen.is_known, seen.difference.changed, seen.difference.new) == (False, 1, 0)
    again = on.take(campaigns[0], FIRST, expected=seen.token)
    assert again.is_new
    assert len({right.list_file.id, other.list_file.id, again.list_file.id}) == 3
    assert on.look(campaigns[0], wrong).difference.changed == 1, "the right address is in use again"
    assert on.look(campaigns[0], FIRST).is_known
    once_more = on.take(campaigns[0], FIRST)
    assert (once_more.is_new, once_more.list_file.id) == (False, again.list_file.id)
    assert count(database, Patient) == 2


def test_the_newest_list_again_does_not_take_its_accepted_suggestions_back(on, campaigns, database):
    on.take(campaigns[0], FIRST)
    on.accept(campaigns[0], FIRST, [3])
    before = contacts(database)
    assert on.look(campaigns[0], FIRST).is_known
    assert not on.take(campaigns[0], FIRST).is_new
    assert contacts(database) == before


def test_a_suggestion_accepted_once_is_accepted_again_after_a_newer_export(on, campaigns, database):
    on.take(campaigns[0], FIRST)
    on.accept(campaigns[0], FIRST, [3])
    accepted = contacts(database)
    newer = FIRST + "3;Roux;Ana;02/01/1975;ana@example.fr;\n"
    on.take(campaigns[0], newer)
    assert len(contacts(database)) == len(accepted), "one was lost, one is new"
    on.accept(campaigns[0], newer, [3])
    assert contacts(database)[: len(accepted)] == accepted
    lists_before = count(database, ListFile)
    on.accept(campaigns[0], newer, [3])
    assert count(database, ListFile) == lists_before


NAMED = "nom;prenom;email\nMartin;Zoé;z@example.fr\nDurand;Luc;luc@exemple.example.org\nRoux;Ana;ana@example.fr\n"


def test_where_only_names_tell_another_contact_is_shown_as_perhaps_the_same_person(on, campaigns, database):
    on.take(campaigns[0], NAMED)
    newer = NAMED.replace("luc@exemple.example.org", "luc@example.net").replace("Ana;ana@", "Eva;eva@")
    difference = on.look(campaigns[0], newer).difference
    assert (difference.new, difference.gone, difference.perhaps_known) == (2, 2, 1)
    taken = on.take(campaigns[0], newer).list_file
    with database.staff() as session:
        doubts = session.execute(
            select(ListProblem.row, ListProblem.reason).filter_by(list_file_id=taken.id)
        ).all()
    assert doubts == [(3, "perhaps_known_with_another_contact")]
    # as the sentence advises: the former row with "no"
    mended = newer.replace("email\n", "email;concerné\n").replace("luc@example.net\n", "luc@example.net;oui\n")
    on.take(campaigns[0], mended + "Durand;Luc;luc@exemple.example.org;non\n")
    with database.staff() as session:
        assert session.scalars(select(Patient.outcome).order_by(Patient.id)).all().count("excluded") == 1


def test_accepted_after_the_start_nobody_is_told_twice(database, current, on):
    campaign = start_campaign(database, current, [person(1), person(2, email="jean@gmial.com")]).id
    text = "\n".join([lists_header(), person(1), person(2, email="jean@gmial.com"), ""])
    on.accept(campaign, text, [3])
    with database.staff() as session:
        assert session.scalar(select(func.count()).select_from(Patient)) == 2


def lists_header() -> str:
    from tests.factories import HEADER

    return HEADER


def test_there_is_no_look_into_a_campaign_that_is_not_there(on, campaigns):
    with pytest.raises(NotFoundError):
        on.look(99, FIRST)


class Dead(Domains):
    """A DNS that knows of no mail at example.fr."""

    async def dead(self, domains):
        return frozenset(domain for domain in domains if domain == "example.fr")


def test_the_dns_is_asked_only_where_it_was_asked_for(database, campaigns, on, monkeypatch):
    # the outermost border: a resolver answers what the machine's network says
    monkeypatch.setattr(lists, "_domains", Dead)
    assert on.look(campaigns[0], FIRST, compare="always").difference.due == 2
    seen = on.look(campaigns[0], FIRST, Given(check_domains=True), compare="always")
    assert seen.difference.due == 1
    on.take(campaigns[0], FIRST, Given(check_domains=True))
    with database.staff() as session:
        assert session.scalars(select(Contact.channel)).all() == ["sms"]


def test_doctors_do_not_see_what_others_said(database, campaigns, on, current):
    on.take(campaigns[0], NUMBERS, Given(mapping=SAID))
    with database.staff() as session:
        first, _, second = (session.get_one(lists.Campaign, one).doctor_id for one in campaigns)
    for doctor, seen in ((first, 1), (second, 0)):
        with database.scope(doctor) as session:
            assert session.scalar(select(func.count()).select_from(ListMapping)) == seen
    with database.scope(first) as session:
        lists.import_list(
            session, current, campaigns[1], source(NUMBERS), Given(mapping=SAID), actor="key:1", now=NOW
        )


def test_a_doctor_who_has_said_nothing_is_asked_nothing(database, current, on):
    campaign = make_campaign(database, current, [person(1)])
    assert {one.by for one in on.look(campaign, FIRST).columns} == {"name"}
    assert count(database, ListMapping) == 0
