from __future__ import annotations

import pytest

from bench import __main__ as command
from bench.deployment import environment
from bench.modes import MODES, RIVALS
from bench.product import summed, write_list
from notifier import settings
from notifier.addresses import check_email, check_phone
from notifier.states import Channel


@pytest.mark.parametrize("name", MODES)
def test_every_mode_sets_only_what_there_is_to_set(name):
    mode = MODES[name]
    changes = {key: value.format(smtp=2525, http=8080) for key, value in mode.settings.items()}
    with environment(changes):
        current = settings.load()
    said = current.model_dump_json()
    assert "2525" in said or "8080" in said
    with environment({}):
        assert "2525" not in settings.load().model_dump_json()


def test_every_rival_has_words():
    assert {rival for mode in MODES.values() for rival, _ in mode.rivals} <= RIVALS.keys()


def test_the_command_line_refuses_a_mode_there_is_not(capsys):
    with pytest.raises(SystemExit) as ended:
        command.parser().parse_args(["--only", "pigeon"])
    assert ended.value.code == 2
    assert "pigeon" in capsys.readouterr().err


def test_a_quick_run_is_one_small_run_of_each():
    options = command.quickly(command.parser().parse_args(["--quick"]))
    assert (options.runs, options.recipients) == (1, command.QUICK_RECIPIENTS)
    assert command.quickly(command.parser().parse_args([])).runs == 3


@pytest.mark.parametrize("channel", Channel)
def test_a_made_up_list_names_nobody_real(channel, tmp_path):
    lines = write_list(tmp_path / "list.csv", channel, 9_990, 20).read_text(encoding="utf-8").splitlines()
    cells = [line.split(";") for line in lines[1:]]
    assert len(cells) == 20
    if channel is Channel.EMAIL:
        assert [check_email(row[4]).address for row in cells] == [
            f"rid-{number:08}@example.org" for number in range(9_990, 10_010)
        ]
    else:
        numbers = [check_phone(row[5], "FR").e164 for row in cells]
        assert len(set(numbers)) == 20
        assert all(number and number.startswith("+3363998") for number in numbers)


def test_statements_are_counted_from_the_servers_log():
    log = (
        "engine|LOG:  duration: 0.100 ms  parse _pg3_0: UPDATE t\n"
        "engine|LOG:  duration: 0.200 ms  bind _pg3_0: UPDATE t\n"
        "engine|LOG:  duration: 1.000 ms  execute _pg3_0: UPDATE t\n\t  SET a = $1\n"
        "engine|LOG:  duration: 2.000 ms  execute _pg3_0: UPDATE t\n\t  SET a = $1\n"
        "engine|LOG:  duration: 5.000 ms  statement: COMMIT\n"
        "bench|LOG:  duration: 9.000 ms  statement: SELECT 1\n"
        "|LOG:  checkpoint starting: time\n"
    )
    each, most = summed(log, 4)
    assert each == 0.5
    assert [(one["text"], one["calls"]) for one in most] == [
        ("COMMIT", 1),
        ("UPDATE t SET a = $1", 2),
        ("UPDATE t", 0),
    ]
    assert most[1]["ms_per_1000"] == pytest.approx(750)
