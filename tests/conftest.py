"""One PostgreSQL and one Valkey a test run, from their wheels; an own database and an emptied queue a test."""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import psycopg
import pytest
import redis
from psycopg import sql
from sqlalchemy.engine import make_url

from notifier import store
from notifier.rehearsal.servers import Postgres, Valkey
from notifier.sealing import MasterKey

SHARED = Path(__file__).resolve().parent.parent.parent / "shared"
MASTER_KEY = "00112233445566778899aabbccddeeff" * 2

#: of each property where its test says nothing else; more by HYPOTHESIS_EXAMPLES
hypothesis.settings.register_profile(
    "suite", max_examples=int(os.environ.get("HYPOTHESIS_EXAMPLES", "40")), deadline=None
)
hypothesis.settings.load_profile("suite")


@pytest.fixture(autouse=True, scope="session")
def _clean_environment() -> None:
    """A deployment's own settings must not reach the tests."""
    for name in list(os.environ):
        if name.startswith("NOTIFIER_") or name in ("DATABASE_URL", "REDIS_URL"):
            del os.environ[name]


@pytest.fixture(scope="session")
def shared() -> Path:
    """Published cases and specifications beside the project, where there are any."""
    if not SHARED.is_dir():
        pytest.skip("the folder with published cases and specifications is not beside the project")
    return SHARED


def _quick_folder() -> str | None:
    """In memory where there is enough: each test makes and drops a database of some 400 files."""
    memory = Path("/dev/shm")
    is_fit = memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 2 * 2**30
    return str(memory) if is_fit else None


@pytest.fixture(scope="session")
def server_dir() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="pn-", dir=_quick_folder()))  # short: a socket's path has a limit
    folder.chmod(0o755)  # as root, PostgreSQL runs as a user of its own and must get through
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres(server_dir: Path) -> Iterator[Postgres]:
    server = Postgres(server_dir / "pg", durable=False)
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def template_database(postgres: Postgres) -> str:
    """The name of a migrated database that the tests' own are copied from."""
    url = postgres.start()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE DATABASE migrated")
    store.migrate(_sqlalchemy(url, "migrated"))
    return "migrated"


@pytest.fixture
def database_url(postgres: Postgres, template_database: str) -> Iterator[str]:
    """A freshly migrated database of this test alone, as DATABASE_URL would name it."""
    url = postgres.start()
    name = f"t_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            # Copied as files: a sixth of what writing each page to the log costs.
            sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY").format(
                sql.Identifier(name), sql.Identifier(template_database)
            )
        )
    yield make_url(url).set(database=name).render_as_string(hide_password=False)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def database(database_url: str) -> Iterator[store.Database]:
    database = store.Database(_sqlalchemy(database_url))
    yield database
    database.dispose()


@pytest.fixture(scope="session")
def valkey(server_dir: Path) -> Iterator[Valkey]:
    server = Valkey(server_dir / "vk")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def redis_url(valkey: Valkey) -> str:
    """The address of an emptied Valkey."""
    url = valkey.start()
    client = redis.Redis.from_url(url)
    client.flushall()
    client.close()
    return url


@pytest.fixture
def master() -> MasterKey:
    return MasterKey(bytes.fromhex(MASTER_KEY))


def _sqlalchemy(url: str, database: str | None = None) -> str:
    parsed = make_url(url).set(drivername="postgresql+psycopg")
    if database:
        parsed = parsed.set(database=database)
    return parsed.render_as_string(hide_password=False)
