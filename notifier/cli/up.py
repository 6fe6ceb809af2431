"""`notifier up`: one machine, real settings, data kept in the data folder."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from notifier.errors import ConflictError, ServiceError, SettingsError

if TYPE_CHECKING:
    from notifier.cli.supervise import Supervisor
    from notifier.rehearsal.servers import Postgres, Valkey
    from notifier.settings import Settings

#: in the environment of every process we start, with the data folder: the next `up` knows them by it
MARK = "PATIENT_NOTIFIER_UP"
#: how often the embedded servers are looked at
_LOOK_S = 2.0
#: after SIGTERM to what a former `up` left running; longer than a worker's own deadline
_STOP_S = 30.0


def up(
    email_workers: Annotated[int, typer.Option(min=0, help="Worker processes for email.")] = 1,
    sms_workers: Annotated[int, typer.Option(min=0, help="Worker processes for SMS.")] = 1,
) -> None:
    """Run everything on this machine: servers if none are named, API, feeder, sweeper and workers.

    Stays until Ctrl-C. A process that ends is started anew; its log is in the data folder.
    """
    from notifier import settings

    try:
        from notifier.rehearsal import servers
    except ImportError as error:
        raise SettingsError(
            "What `notifier up` needs is not installed: pip install 'patient-notifier[rehearsal]'."
        ) from error
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    given = settings.load()
    data_dir = given.data_dir.resolve()
    # Only servers of our own folder: those named by a URL are not ours to start or stop.
    owned: dict[str, Postgres | Valkey] = {}
    if not given.database_url:
        owned["DATABASE_URL"] = servers.Postgres(data_dir)
    if not given.redis_url:
        owned["REDIS_URL"] = servers.Valkey(data_dir)
    with alone(data_dir):
        end_orphans(data_dir)
        try:
            _run(data_dir, owned, stop, email_workers, sms_workers)
        finally:
            for server in owned.values():
                server.stop()


def _run(
    data_dir: Path,
    owned: dict[str, Postgres | Valkey],
    stop: threading.Event,
    email_workers: int,
    sms_workers: int,
) -> None:
    from notifier.cli import common
    from notifier.cli.supervise import Supervisor, engine

    current = common.environment()
    environment = common.complete_environment(data_dir) | {MARK: str(data_dir)}
    check(current)
    supervisor = Supervisor(environment, data_dir / "log", _say)
    engine(supervisor, email_workers, sms_workers)
    with supervisor:
        _say(f"The API answers at http://{current.api_host}:{current.api_port}/api/v1")
        _say(f"Email goes to {current.smtp.host}:{current.smtp.port}, SMS to {current.brevo_sms.base_url}")
        _say(f"Data and logs are in {data_dir}. Ctrl-C ends everything; the data stays.")
        while not stop.wait(_LOOK_S):
            for name, server in owned.items():
                keep(name, server, environment, supervisor)
        _say("Stopping …")


def check(current: Settings) -> None:
    """Migrates the database; raises SettingsError, ServiceError or SealingError if no process could work."""
    from notifier import startup, store

    startup.check_redis(current.redis_url or "")
    store.migrate(current.sqlalchemy_url)
    database = store.Database(current.sqlalchemy_url, pool_size=1)
    try:
        database.check()
        startup.check_master_key(database, current.master)
    finally:
        database.dispose()


def keep(name: str, server: Postgres | Valkey, environment: dict[str, str], supervisor: Supervisor) -> None:
    """Starts an embedded server again if it is gone. One that comes back elsewhere is told to every process."""
    import psycopg

    if server.pid is not None:
        return
    what = type(server).__name__
    try:
        url = server.start()
    except (ServiceError, OSError, subprocess.SubprocessError, psycopg.Error) as error:
        said = error.message if isinstance(error, ServiceError) else type(error).__name__
        _say(f"{what} is gone and cannot be started, which is tried again: {said}")
        return
    _say(f"{what} was gone and has been started again.")
    if url != environment[name]:
        environment[name] = url
        supervisor.restart()


@contextmanager
def alone(data_dir: Path) -> Iterator[None]:
    """Holds the data folder: the kernel lets go of it if we are killed. Raises ConflictError if another has it."""
    data_dir.mkdir(parents=True, exist_ok=True)
    with (data_dir / "up.lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise ConflictError(
                f"notifier up already runs in {data_dir}, pid {file.read().strip() or 'not yet known'}: end it "
                "first, or choose another folder by NOTIFIER_DATA_DIR."
            ) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def end_orphans(data_dir: Path) -> None:
    """Ends what a killed `up` of this folder left running: it would go on with the settings of then."""
    import psutil

    orphans = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(MARK) == str(data_dir):
                process.terminate()
                orphans.append(process)
        except (psutil.Error, OSError):
            continue  # it has ended, or is another user's
    if not orphans:
        return
    _say(f"{len(orphans)} processes of an earlier notifier up still run in {data_dir}: ending them first.")
    _, left = psutil.wait_procs(orphans, timeout=_STOP_S)
    for process in left:
        process.kill()
    psutil.wait_procs(left, timeout=_STOP_S)


def _say(line: str) -> None:
    try:
        print(line, file=sys.stderr, flush=True)
    except OSError:
        return  # the terminal is gone; the work goes on
