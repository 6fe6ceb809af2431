"""The pair as a process of its own: announced when ready, found, killed and recounted, stopped."""

import json
import os
import signal
import smtplib
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from notifier.errors import ServiceError
from notifier.rehearsal import main
from notifier.rehearsal.ledger import read_journal


@pytest.fixture
def data_dir(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    main.stop(tmp_path)


def send(here: main.Announcement, count: int) -> None:
    with smtplib.SMTP(here.smtp_host, here.smtp_port, timeout=20) as client:
        for n in range(count):
            client.sendmail("a@example.org", [f"p{n}@example.org"], f"Subject: {n}\n\ntext {n}")


def test_it_is_announced_when_ready_and_gone_when_stopped(data_dir: Path):
    here = main.start(data_dir, faults="none", seed=3)
    assert main.announced(data_dir) == here
    send(here, 3)
    assert httpx.get(f"{here.page_url}/counts.json").json()["email"]["taken"] == 3
    assert [one["subject"] for one in main.fetch_messages(here)] == ["0", "1", "2"]
    assert [one["subject"] for one in main.fetch_messages(here, since=2)] == ["2"]
    answer = httpx.post(f"{here.brevo_url}/transactionalSMS/send", json={}, headers={"api-key": here.api_key})
    assert answer.json()["code"] == "missing_parameter"
    with pytest.raises(ServiceError, match="already runs"):
        main.start(data_dir)
    main.stop(data_dir)
    assert main.announced(data_dir) is None
    assert not psutil.pid_exists(here.pid)
    assert not (data_dir / "rehearsal.json").exists()


def test_a_killed_rehearsal_is_recounted_from_its_journal(data_dir: Path):
    journal = data_dir / "rehearsal.jsonl"
    here = main.start(data_dir, faults="none", journal=journal)
    send(here, 5)
    os.kill(here.pid, signal.SIGKILL)
    psutil.wait_procs([psutil.Process(here.pid)] if psutil.pid_exists(here.pid) else [], timeout=10)
    assert len(list(read_journal(journal))) == 5
    assert main.announced(data_dir) is None
    again = main.start(data_dir, faults="none", journal=journal, smtp_port=here.smtp_port)
    assert again.smtp_port == here.smtp_port
    assert httpx.get(f"{again.page_url}/counts.json").json()["email"]["taken"] == 5


def test_a_file_left_behind_is_not_believed(data_dir: Path):
    here = main.start(data_dir, faults="none")
    known = json.loads((data_dir / "rehearsal.json").read_text())
    main.stop(data_dir)
    (data_dir / "rehearsal.json").write_text(json.dumps({**known, "pid": os.getpid()}))
    assert main.announced(data_dir) is None
    assert here.pid != os.getpid()


def test_a_taken_port_is_said(data_dir: Path):
    here = main.start(data_dir, faults="none")
    with pytest.raises(ServiceError, match=r"rehearsal\.log"):
        main.start(data_dir / "second", smtp_port=here.smtp_port)
    assert "cannot listen" in (data_dir / "second" / "rehearsal.log").read_text()
