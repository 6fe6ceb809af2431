from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import text

from bench import deployment as deployments
from bench import generate
from bench.deployment import Deployment
from notifier import settings, store
from notifier.importing import CONTACT_PURPOSE, IDENTITY_PURPOSE, Identity
from notifier.rehearsal.servers import Urls
from notifier.sealing import MasterKey
from tests.conftest import MASTER_KEY


@pytest.fixture
def deployment(database: store.Database, database_url: str, tmp_path: Path) -> Deployment:
    current = settings.load(database_url=database_url, master_key=MASTER_KEY)
    return Deployment(tmp_path, Urls(database_url, ""), current, database, {})


@pytest.mark.parametrize(("patients", "campaigns"), [(15_000_000, 1_500), (1_500_000, 1_500), (1_000, 2), (7, 1)])
def test_sizes_add_up_the_largest_first(patients, campaigns):
    found = generate.sizes(patients, campaigns)
    assert (len(found), sum(found)) == (campaigns, patients)
    assert found[0] == min(patients // 5, generate.LARGEST) or campaigns == 1
    assert found[1:] == sorted(found[1:])
    assert min(found[1:], default=generate.SMALLEST) >= generate.SMALLEST


def test_too_few_patients_for_so_many_campaigns_are_refused():
    with pytest.raises(ValueError, match="too few"):
        generate.sizes(1_000, 500)


def quiet(_: str) -> None:
    """Says nothing."""


def test_what_is_made_can_be_started_and_opens(deployment: Deployment, master: MasterKey):
    largest, small = generate.fill(deployment, 400, 2, quiet, processes=1)
    assert deployments.start(deployment, largest) == 80
    assert deployments.start(deployment, small) == 320
    with deployment.database.staff() as session:
        row = session.execute(
            text(
                "SELECT c.data_key, k.value_sealed, p.identity_sealed FROM delivery d "
                "JOIN campaign c ON c.id = d.campaign_id JOIN contact k ON k.id = d.contact_id "
                "JOIN patient p ON p.id = d.addressee_id WHERE p.id = 81"
            )
        ).one()
    key = master.open_data_key(row.data_key, small)
    assert key.open(row.value_sealed, CONTACT_PURPOSE) == b"rid-00000080@example.org"
    assert Identity.from_json(key.open(row.identity_sealed, IDENTITY_PURPOSE)).patient_id == "P80"


def test_what_was_interrupted_goes_on_where_it_stopped(deployment: Deployment, monkeypatch: pytest.MonkeyPatch):
    copied: list[int] = []
    whole: Callable[[generate.Part], int] = generate._copy

    def stop_after_one(part: generate.Part) -> int:
        if copied:
            raise KeyboardInterrupt
        copied.append(part.campaign_id)
        return whole(part)

    monkeypatch.setattr(generate, "_copy", stop_after_one)
    with pytest.raises(KeyboardInterrupt):
        generate.fill(deployment, 400, 3, quiet, processes=1)
    monkeypatch.setattr(generate, "_copy", whole)
    campaigns = generate.fill(deployment, 400, 3, quiet, processes=1)
    with deployment.database.staff() as session:
        counted = session.execute(
            text("SELECT campaign_id, count(*) FROM patient GROUP BY campaign_id ORDER BY campaign_id")
        ).all()
    with deployment.database.engine.connect() as connection:
        assert connection.scalar(text("SELECT nextval(pg_get_serial_sequence('patient', 'id'))")) == 401
    assert [tuple(row) for row in counted] == list(zip(campaigns, generate.sizes(400, 3), strict=True))


def test_a_folder_made_for_other_numbers_is_refused(deployment: Deployment):
    generate.fill(deployment, 200, 2, quiet, processes=1)
    with pytest.raises(ValueError, match="holds 2 campaigns, not 1"):
        generate.fill(deployment, 200, 1, quiet, processes=1)
