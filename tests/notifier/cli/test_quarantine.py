from __future__ import annotations

import pytest
from sqlalchemy import text

from notifier.store import Database
from tests.notifier.cli.conftest import Cli


@pytest.fixture
def set_aside(database: Database, sending: int) -> list[int]:
    """The campaign's two deliveries, as a worker that crashed three times leaves them once they are settled."""
    with database.staff() as session:
        session.execute(
            text(
                "UPDATE delivery SET state = 'quarantined', crashes = 3, reason = 'worker_crashed', due_at = NULL"
            )
        )
        session.execute(
            text(
                "UPDATE patient SET outcome = 'unreached', outcome_reason = 'quarantined' "
                "WHERE id IN (SELECT patient_id FROM delivery_patient)"
            )
        )
        return list(session.scalars(text("SELECT id FROM delivery ORDER BY id")))


def test_what_is_set_aside_is_listed_with_its_reason(cli: Cli, sending: int, set_aside: list[int]) -> None:
    document = cli.json("quarantine", "list")
    assert [row["id"] for row in document["quarantined"]] == set_aside
    assert set(document["quarantined"][0]) == {
        "id", "campaign_id", "channel", "language", "reason", "crashes", "tries", "possibly_twice",
    }  # fmt: skip
    first = cli.json("quarantine", "list", "--limit", 1)
    rest = cli.json("quarantine", "list", "--after", first["next"])
    assert [row["id"] for row in first["quarantined"] + rest["quarantined"]] == set_aside
    assert "--campaign 1 --after" in cli.run("quarantine", "list", "--campaign", sending, "--limit", 1)
    assert "worker_crashed" in cli.run("quarantine", "list")
    assert "2 deliveries are set aside for a person: notifier quarantine list." in cli.run("queue", "status")


def test_what_is_released_waits_again_without_its_crashes(cli: Cli, sending: int, set_aside: list[int]) -> None:
    first, second = set_aside
    assert cli.json("quarantine", "release", first, "--reason", "mended", "--yes")["deliveries"] == [first]
    shown = cli.json("delivery", "show", first)
    assert (shown["state"], shown["crashes"], shown["patients"][0]["outcome"]) == ("pending", 0, "on_the_way")
    assert [row["id"] for row in cli.json("quarantine", "list")["quarantined"]] == [second]
    assert cli.run("quarantine", "release", first, "--reason", "again", "--yes").startswith(
        "0 released.\n1 left alone"
    )


def test_what_is_given_up_has_failed(cli: Cli, sending: int, set_aside: list[int]) -> None:
    choice = ("quarantine", "give-up", "--campaign", sending, "--reason", "no use")
    assert cli.run(*choice, "--dry-run") == "2 would be given up.\n"
    assert cli.json(*choice, "--yes")["count"] == 2
    shown = cli.json("delivery", "show", set_aside[0])
    assert (shown["state"], shown["reason"]) == ("failed", "given_up")
    actions = [entry["action"] for entry in cli.json("journal", "list")["entries"]]
    assert "quarantine.give_up" in actions


@pytest.mark.parametrize("act", ["release", "give-up"])
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "Say which: their numbers, or --campaign."),
        (["1", "--campaign", "1"], "Say which: their numbers, or --campaign."),
        (["999"], "There is no delivery 999."),
        (["1", "999"], "There is no delivery 999."),
        (["--campaign", "999"], "There is no campaign 999."),
        (["1", "--reason", " "], "A reason is needed: it is kept in the journal."),
    ],
)
def test_an_act_that_cannot_be_is_refused_and_changes_nothing(
    cli: Cli, sending: int, set_aside: list[int], act: str, arguments: list[str], expected: str
) -> None:
    command = ("quarantine", act, "--reason", "a try", *arguments, "--yes")
    assert cli.error(*command) == expected
    assert cli.json(*command, code=1) == {"error": expected}
    assert len(cli.json("quarantine", "list")["quarantined"]) == 2


@pytest.mark.parametrize("act", ["release", "give-up"])
def test_an_act_without_a_reason_or_with_an_odd_number_is_wrong_usage(cli: Cli, act: str) -> None:
    cli.run("quarantine", act, 1, code=2)
    cli.run("quarantine", act, "one", "--reason", "a try", code=2)
    cli.run("quarantine", act, 0, "--reason", "a try", code=2)


def test_a_list_of_a_campaign_there_is_not_is_refused(cli: Cli, sending: int) -> None:
    assert cli.error("quarantine", "list", "--campaign", 999) == "There is no campaign 999."
    assert cli.json("quarantine", "list", "--campaign", 999, code=1) == {"error": "There is no campaign 999."}
    assert cli.json("quarantine", "list", "--campaign", sending) == {"quarantined": [], "next": None}


def test_who_is_asked_and_says_no_changes_nothing(cli: Cli, sending: int, set_aside: list[int]) -> None:
    for act, done in (("release", "released"), ("give-up", "given up")):
        choice = ("quarantine", act, "--campaign", sending, "--reason", "a try")
        cli.run(*choice, code=1, stdin="n\n")
        assert f"2 would be {done}." in cli.stderr
        assert cli.stderr.endswith("Nothing was changed.\n")
        cli.run(*choice, code=1, stdin="")
        assert cli.stderr.endswith("Nobody is there to answer: add --yes.\n")
        assert cli.json(*choice, code=1) == {"error": "With --json nobody is asked: add --yes."}
        assert cli.json(*choice, "--dry-run") == {"dry_run": True, "deliveries": set_aside, "count": 2, "left": {}}
    assert len(cli.json("quarantine", "list")["quarantined"]) == 2
    assert not [one for one in cli.json("journal", "list")["entries"] if one["action"].startswith("quarantine")]


def test_who_was_told_meanwhile_is_told_again_only_if_one_says_so(
    cli: Cli, sending: int, set_aside: list[int], database: Database
) -> None:
    with database.staff() as session:
        session.execute(text("UPDATE patient SET outcome = 'informed', outcome_reason = NULL"))
    choice = ("quarantine", "release", "--campaign", sending, "--reason", "mended", "--yes")
    assert cli.json(*choice) == {"dry_run": False, "deliveries": [], "count": 0, "left": {"told": 2}}
    assert cli.json(*choice, "--even-told")["deliveries"] == set_aside


def test_of_a_campaign_that_is_over_nothing_is_released_but_may_be_given_up(
    cli: Cli, sending: int, set_aside: list[int]
) -> None:
    cli.run("campaign", "cancel", sending, "--reason", "a wrong list", "--yes")
    left = cli.json("quarantine", "release", *set_aside, "--reason", "a try", "--yes")
    assert left == {"dry_run": False, "deliveries": [], "count": 0, "left": {"campaign_over": 2}}
    assert cli.json("quarantine", "give-up", *set_aside, "--reason", "it is over", "--yes")["count"] == 2


def test_nothing_about_a_person_is_shown(cli: Cli, sending: int, set_aside: list[int]) -> None:
    cli.said.clear()
    cli.run("quarantine", "list")
    cli.json("quarantine", "list")
    for act in ("release", "give-up"):
        cli.run("quarantine", act, set_aside[0], "--reason", "a try", "--dry-run")
        cli.run("quarantine", act, set_aside[1], "--reason", "a try", "--yes")
    for number in set_aside:
        cli.run("delivery", "show", number)
        cli.json("delivery", "show", number)
    for known in ("@", "Nom1", "Prenom", "39980", "39 98", "Lilas", "1975", "P0000"):
        assert known not in "".join(cli.said), known
