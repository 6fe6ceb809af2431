"""Schemathesis asks the whole API, as its OpenAPI document describes it, on a real server and PostgreSQL.

At the borders of every value, at random, and in chains where one answer gives the numbers of the next request. It
finds server errors, answers that are not described, wrong data accepted, right data refused, and keys not asked
for. Always the same requests, and few; `SCHEMATHESIS_EXAMPLES=100` asks many more for minutes, others each time.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from notifier import receipts
from notifier.api.auth import make_key
from notifier.api.caller import Caller
from notifier.api.following import MOST_WAIT_S
from notifier.api.server import Server
from notifier.sealing import MasterKey
from notifier.store import Database
from tests.factories import HEADER, make_campaign, make_settings, person, start_campaign
from tests.notifier.api.conftest import first_delivery

ROOT = Path(__file__).resolve().parents[3]
TOKEN = "a-made-up-token-of-the-account"
LIST = "\n".join([HEADER, person(7), person(8, email="nobody@example"), ""])
MANY = os.environ.get("SCHEMATHESIS_EXAMPLES")
#: requests an operation at random; one in so many of the wrong ones at the borders
EXAMPLES, SHARE = (MANY, "1") if MANY else ("4", "6")


@pytest.mark.timeout(0 if MANY else 300)
def test_schemathesis_finds_nothing(
    database_url: str, database: Database, master: MasterKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nowhere(self: Caller, host: str, port: int) -> None:
        raise socket.gaierror

    # Callbacks to addresses made up at random stay on this machine.
    monkeypatch.setattr(Caller, "_address", nowhere)
    current = make_settings(database_url, api_port=0, brevo_email={"webhook_token": TOKEN})
    sending = start_campaign(database, current, [person(1), person(2), person(3, email=None)], number=1)
    make_campaign(database, current, [person(4)], number=2)
    doomed = make_campaign(database, current, [person(5)], number=3)
    with database.staff() as session:
        make_key(session, "may be revoked", None)
        key, secret = make_key(session, "test", None)
        environment = {
            "API_KEY": secret,
            "API_KEY_ID": str(key.id),
            "DOOMED_CAMPAIGN": str(doomed),
            "REPORT_TOKEN": TOKEN,
            "REFERENCE": receipts.webhook_reference(master, "brevo-sms", first_delivery(database, sending.id)),
            "LIST": LIST,
            "MOST_WAIT_S": str(MOST_WAIT_S),
            "SCHEMATHESIS_SHARE": SHARE,
        }
    ready = threading.Event()
    server = Server(current, lambda port: ready.set())
    thread = threading.Thread(target=server.serve_until_stopped)
    thread.start()
    try:
        assert ready.wait(60)
        command = [sys.executable, "-m", "schemathesis.cli", "--no-color"]
        command += ["--config-file", str(Path(__file__).with_name("schemathesis.toml"))]
        command += ["run", f"http://127.0.0.1:{server.port}/openapi.json", "--checks", "all"]
        command += ["--max-examples", EXAMPLES, *([] if MANY else ["--generation-deterministic"])]
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=os.environ | environment | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        server.should_exit = True
        thread.join(60)
    assert done.returncode == 0, done.stdout + done.stderr
    operations = sum(len(methods) for methods in server.config.app.openapi()["paths"].values())
    assert f"{operations} selected / {operations} total" in done.stdout
