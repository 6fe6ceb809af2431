"""The rehearsal's inbox and SMS simulator as one process on one event loop, and how others start and find it.

When it is ready it writes `<data_dir>/rehearsal.json`:

    {"pid": 4711, "began_at": 1764036000.25, "smtp_host": "127.0.0.1", "smtp_port": 40025,
     "page_url": "http://127.0.0.1:40080", "brevo_url": "http://127.0.0.1:40080/v3", "api_key": "…",
     "seed": 1, "journal": "…/rehearsal.jsonl" or null}

and takes it away when it ends in order. `python -m notifier.rehearsal.main --data-dir var` runs it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
from aiohttp import web

from notifier.errors import NotifierError, ServiceError
from notifier.rehearsal.admin import Admin, local_only
from notifier.rehearsal.faults import PRESETS, preset
from notifier.rehearsal.inbox import Inbox
from notifier.rehearsal.ledger import Ledger
from notifier.rehearsal.sms_simulator import MAX_BODY_BYTES, SmsSimulator
from notifier.settings import ROOT

START_S = 30.0
STOP_S = 10.0
HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Announcement:
    """Where a running rehearsal answers: the content of `rehearsal.json`."""

    pid: int
    #: when the process began, in seconds since 1970: a number alone may be another program's by now
    began_at: float
    smtp_host: str
    smtp_port: int
    page_url: str
    brevo_url: str
    api_key: str
    seed: int
    journal: str | None


async def run(
    data_dir: Path,
    *,
    smtp_port: int = 0,
    http_port: int = 0,
    faults: str = "usual",
    seed: int = 1,
    journal: Path | None = None,
    api_key: str | None = None,
    templates_dir: Path = ROOT / "templates",
) -> None:
    """Serves until SIGTERM or SIGINT. Port 0 lets the system choose. Raises InputError for an unknown preset,
    ServiceError if a port is taken."""
    both = preset(faults)
    ledger = Ledger(journal)
    key = api_key or secrets.token_hex(16)
    inbox = Inbox(ledger, both.email, seed)
    sms = SmsSimulator(ledger, both.sms, seed, key)
    app = web.Application(middlewares=[local_only], client_max_size=MAX_BODY_BYTES)
    app.add_routes([*sms.routes(), *Admin(ledger, inbox, sms, templates_dir).routes()])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        smtp = await inbox.start(smtp_port, HOST)
        site = web.TCPSite(runner, HOST, http_port, backlog=512)
        await site.start()
    except OSError as error:
        raise ServiceError(
            f"The rehearsal cannot listen on ports {smtp_port} and {http_port} ({error.strerror}); "
            "choose others, or 0 for any that is free."
        ) from error
    page_url = f"http://{HOST}:{runner.addresses[0][1]}"
    here = Announcement(
        pid=os.getpid(),
        began_at=psutil.Process().create_time(),
        smtp_host=HOST,
        smtp_port=smtp.sockets[0].getsockname()[1],
        page_url=page_url,
        brevo_url=f"{page_url}/v3",
        api_key=key,
        seed=seed,
        journal=None if journal is None else str(journal),
    )
    _announce(data_dir, here)
    await _until_signalled()
    _withdraw(data_dir)
    smtp.close()
    await sms.close()
    await runner.cleanup()
    ledger.close()


def announced(data_dir: Path) -> Announcement | None:
    """The rehearsal running for this data folder, or None. A file left by a killed one is not believed."""
    try:
        known = Announcement(**json.loads(_file(data_dir).read_text()))
    except (OSError, ValueError, TypeError):
        return None
    try:
        process = psutil.Process(known.pid)
        is_alive = process.status() != psutil.STATUS_ZOMBIE and process.create_time() == known.began_at
    except psutil.Error:
        return None
    return known if is_alive else None


def start(
    data_dir: Path,
    *,
    smtp_port: int = 0,
    http_port: int = 0,
    faults: str = "usual",
    seed: int = 1,
    journal: Path | None = None,
    api_key: str | None = None,
) -> Announcement:
    """Starts it as a process of its own and returns when it is ready; it runs until `stop`.

    Raises ServiceError if one already runs for this folder, or if it ends while starting.
    """
    if announced(data_dir) is not None:
        raise ServiceError(f"A rehearsal already runs for {data_dir}; stop it first.")
    data_dir.mkdir(parents=True, exist_ok=True)
    _withdraw(data_dir)
    command = [sys.executable, "-m", "notifier.rehearsal.main", "--data-dir", str(data_dir)]
    command += ["--smtp-port", str(smtp_port), "--http-port", str(http_port), "--faults", faults]
    command += ["--seed", str(seed), *(["--journal", str(journal)] if journal else [])]
    log = data_dir / "rehearsal.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            # The key goes by the environment: a command line can be read by every user of the machine.
            env={**os.environ, "REHEARSAL_API_KEY": api_key or ""},
        )
    deadline = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < deadline:
        here = announced(data_dir)
        if here is not None and here.pid == process.pid:
            _CHILDREN[here.pid] = process
            return here
        time.sleep(0.02)
    process.kill()
    process.wait()
    raise ServiceError(f"The rehearsal did not start; the reason is in {log}.")


def stop(data_dir: Path) -> None:
    """Ends the rehearsal of this folder in order. Nothing happens where none runs."""
    here = announced(data_dir)
    if here is None or here.pid == os.getpid():
        return
    process = psutil.Process(here.pid)
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_S)
    except psutil.TimeoutExpired:
        process.kill()
    child = _CHILDREN.pop(here.pid, None)
    if child is not None:
        child.wait()


def fetch_messages(here: Announcement, since: int | None = 0) -> Iterator[dict[str, Any]]:
    """Messages a rehearsal took, from number `since` on, oldest first, as `ledger.described` gives them."""
    with httpx.Client(base_url=here.page_url, timeout=60) as client:
        while since is not None:
            answer = client.get("/messages.json", params={"since": since})
            answer.raise_for_status()
            page = answer.json()
            yield from page["messages"]
            since = page["next"]


def main(arguments: list[str] | None = None) -> int:
    """The command line: 0 when stopped in order, 1 with a reason."""
    parser = argparse.ArgumentParser(prog="python -m notifier.rehearsal.main", description=(__doc__ or "")[:110])
    parser.add_argument("--data-dir", type=Path, default=Path("var"))
    parser.add_argument("--smtp-port", type=int, default=0)
    parser.add_argument("--http-port", type=int, default=0)
    parser.add_argument("--faults", choices=list(PRESETS), default="usual")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--journal", type=Path, help="keep every message in this file, to recount after a crash")
    given = parser.parse_args(arguments)
    try:
        asyncio.run(
            run(
                given.data_dir,
                smtp_port=given.smtp_port,
                http_port=given.http_port,
                faults=given.faults,
                seed=given.seed,
                journal=given.journal,
                api_key=os.environ.get("REHEARSAL_API_KEY") or None,
            )
        )
    except NotifierError as error:
        sys.stderr.write(f"{error.message}\n")
        return 1
    return 0


#: processes started here, so that they are waited for and leave no zombie
_CHILDREN: dict[int, subprocess.Popen[bytes]] = {}


async def _until_signalled() -> None:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    await ended.wait()


def _file(data_dir: Path) -> Path:
    return data_dir / "rehearsal.json"


def _announce(data_dir: Path, here: Announcement) -> None:
    data_dir.mkdir(parents=True, exist_ok=True)
    part = _file(data_dir).with_suffix(".part")
    part.touch(mode=0o600)
    part.write_text(json.dumps(asdict(here)))
    part.replace(_file(data_dir))
    sys.stdout.write(f"{json.dumps({'page_url': here.page_url, 'smtp_port': here.smtp_port})}\n")
    sys.stdout.flush()


def _withdraw(data_dir: Path) -> None:
    _file(data_dir).unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
