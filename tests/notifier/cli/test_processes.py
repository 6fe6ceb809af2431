from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from notifier.rehearsal import main as rehearsal
from notifier.rehearsal.servers import free_port
from tests.factories import HEADER, person
from tests.notifier.cli.conftest import Cli
from tests.notifier.cli.test_common import COMMAND, typed


@contextmanager
def running(environment: dict[str, str], log: Path, *arguments: str) -> Iterator[None]:
    """A process started by its command; ended by SIGTERM, which it must obey."""
    with log.open("w") as stderr:
        process = subprocess.Popen([*COMMAND, *arguments], env=os.environ | environment, stderr=stderr)
    try:
        yield
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()


def await_answer(port: int) -> None:
    """Returns once something listens there; the test's own time limit bounds it."""
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
        except ConnectionRefusedError:
            threading.Event().wait(0.05)
        else:
            return


def test_api_workers_feeder_and_sweeper_carry_a_campaign_to_its_end(
    environment: dict[str, str], files: Path
) -> None:
    lines = [person(1), person(2, email=None), person(3, email=None, phone=None), person(4, decede="oui")]
    (files / "list.csv").write_text("\n".join([HEADER, *lines, ""]), encoding="utf-8")
    folder = Path(tempfile.mkdtemp(prefix="pn-"))
    here = rehearsal.start(folder, faults="none")
    port = free_port()
    environment |= {
        "NOTIFIER_TIME_SCALE": "50000",
        "NOTIFIER_API_PORT": str(port),
        "NOTIFIER_PUBLIC_URL": f"http://127.0.0.1:{port}",
        "NOTIFIER_SMTP__HOST": here.smtp_host,
        "NOTIFIER_SMTP__PORT": str(here.smtp_port),
        "NOTIFIER_SMTP__SECURITY": "none",
        "NOTIFIER_BREVO_SMS__BASE_URL": here.brevo_url,
        "NOTIFIER_BREVO_SMS__API_KEY": here.api_key,
        "NOTIFIER_ENGINE__SWEEPER_MS": "100",
    }
    cli = Cli(environment)
    try:
        cli.run("incident", "create", files / "incident.json")
        cli.run("doctor", "import", files / "doctors.json")
        number = cli.json("campaign", "create", "breach-1", "D0001")["id"]
        cli.run("patients", "import", number, files / "list.csv")
        seen = cli.json("campaign", "preview", number)["hash"]
        cli.run("campaign", "approve", number, "--hash", seen, "--yes")
        cli.run("campaign", "start", number)
        assert any("No worker" in problem for problem in cli.json("queue", "status")["problems"])
        with ExitStack() as stack:
            stack.enter_context(running(environment, folder / "api.log", "api"))
            await_answer(port)
            for arguments in (
                ["worker", "--channel", "email", "--channel", "sms"], ["worker", "--control"], ["feeder"], ["sweeper"]
            ):  # fmt: skip
                stack.enter_context(running(environment, folder / f"{arguments[-1]}.log", *arguments))
            tests = [
                cli.json("campaign", "test", number, "--to", to, "--wait", 300)
                for to in ("me@example.org", "06 39 98 00 77")
            ]
            watched = typed("campaign", "watch", str(number), "--every", "0.1", "--json", **environment)
            status = cli.json("queue", "status")
    finally:
        rehearsal.stop(folder)
        shutil.rmtree(folder, ignore_errors=True)
    assert [(test["channel"], test["state"], test["hash"]) for test in tests] == [
        ("email", "accepted", seen), ("sms", "accepted", seen),
    ]  # fmt: skip
    document = json.loads(watched.stdout)
    assert document["state"] == "completed"
    assert document["patients"] == {
        "imported": 4, "excluded": 1, "merged": 0, "informed": 2, "on_the_way": 0, "unreached": 1,
    }  # fmt: skip
    assert (status["workers_alive"], status["problems"]) == (1, [])
    (first, _) = cli.json("delivery", "list", number)["deliveries"]
    assert "try 1: accepted" in [step["what"] for step in cli.json("delivery", "show", first["id"])["history"]]


@pytest.mark.parametrize("command", ["worker", "feeder", "sweeper", "api"])
def test_a_process_that_cannot_start_says_why_and_ends_with_1(environment: dict[str, str], command: str) -> None:
    environment["NOTIFIER_MASTER_KEY"] = "too short"
    ended = typed(command, **environment)
    assert ended.returncode == 1
    assert "NOTIFIER_MASTER_KEY must be 64 hexadecimal digits" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_folder_of_the_same_name_is_not_taken_for_ours(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "workers").mkdir()
    (tmp_path / "workers" / "__init__.py").write_text("raise SystemExit('not ours')")
    environment["NOTIFIER_MASTER_KEY"] = "too short"
    run = subprocess.run(
        [sys.executable, "-P", *COMMAND[1:], "feeder"],
        cwd=tmp_path, env=os.environ | environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "64 hexadecimal digits" in run.stderr


def test_a_channel_there_is_not_is_wrong_usage(environment: dict[str, str]) -> None:
    assert typed("worker", "--channel", "fax", **environment).returncode == 2


def test_the_process_for_test_sends_has_both_channels(environment: dict[str, str]) -> None:
    ended = typed("worker", "--control", "--channel", "sms", **environment)
    assert (ended.returncode, "both channels" in ended.stderr) == (1, True)
