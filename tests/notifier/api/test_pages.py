"""Cursors: every row that was there when the walk began, once and in order."""

from __future__ import annotations

import base64

from fastapi.testclient import TestClient

from notifier.models import Incident
from notifier.settings import Settings
from notifier.store import Database
from tests.factories import make_campaign, person
from tests.notifier.api.conftest import World


def walk(client: TestClient, path: str, limit: int) -> list[int]:
    seen: list[int] = []
    cursor = None
    while True:
        answer = client.get(path, params={"limit": limit} | ({"cursor": cursor} if cursor else {}))
        assert answer.status_code == 200, answer.text
        items = answer.json()["items"]
        assert 0 < len(items) <= limit
        seen += [item["id"] for item in items]
        cursor = answer.json()["next"]
        if cursor is None:
            return seen


def test_a_walk_sees_every_row_once(operations: TestClient, database: Database, current: Settings) -> None:
    campaign = make_campaign(database, current, [person(number) for number in range(14)])
    for limit in (1, 2, 7, 14, 200):
        seen = walk(operations, f"/api/v1/campaigns/{campaign}/patients", limit)
        assert (len(seen), seen) == (14, sorted(set(seen))), limit


def test_rows_with_later_ids_come_at_the_end(operations: TestClient, world: World) -> None:
    first = operations.get("/api/v1/incidents?limit=1").json()
    assert first["next"] is None
    for reference in ("b", "c"):
        operations.post("/api/v1/incidents", json={"reference": reference, "profile": "eu-gdpr-fr"})
    page = operations.get("/api/v1/incidents?limit=1").json()
    operations.post("/api/v1/incidents", json={"reference": "d", "profile": "eu-gdpr-fr"})
    rest = operations.get("/api/v1/incidents", params={"cursor": page["next"]}).json()
    assert [item["reference"] for item in page["items"] + rest["items"]] == ["incident-1", "b", "c", "d"]


def test_a_row_committed_behind_the_walk_is_seen_by_the_next_one(
    operations: TestClient, database: Database
) -> None:
    new = {"profile": "eu-gdpr-fr", "facts": {}}
    with database.staff() as slow:
        slow.add(Incident(reference="slow", **new))
        slow.flush()
        for reference in ("b", "c"):
            operations.post("/api/v1/incidents", json={"reference": reference, **new})
        page = operations.get("/api/v1/incidents?limit=1").json()
    rest = operations.get("/api/v1/incidents", params={"cursor": page["next"]}).json()
    assert [item["reference"] for item in page["items"] + rest["items"]] == ["b", "c"]
    whole = operations.get("/api/v1/incidents").json()["items"]
    assert [item["reference"] for item in whole] == ["slow", "b", "c"]


def test_every_listing_is_walked_in_order(operations: TestClient, world: World) -> None:
    for path in ("campaigns", "doctors", "deliveries", "keys", f"campaigns/{world.mine}/lists"):
        whole = [item["id"] for item in operations.get(f"/api/v1/{path}").json()["items"]]
        assert walk(operations, f"/api/v1/{path}", 1) == whole == sorted(whole), path


def cursor(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def test_a_cursor_of_another_make_or_listing_is_refused(operations: TestClient) -> None:
    made_up = [cursor(f"campaigns:{number}") for number in ("-1", "²", "9" * 30, "")]
    for wrong in ("x", "!!!!", "é", "", cursor("doctors:1"), *made_up):
        answer = operations.get("/api/v1/campaigns", params={"cursor": wrong})
        assert answer.status_code == 422, wrong
        assert answer.headers["content-type"] == "application/problem+json"


def test_a_limit_outside_the_bounds_is_refused(operations: TestClient) -> None:
    for limit in ("0", "201", "-1", "ten", "1e2"):
        assert operations.get("/api/v1/campaigns", params={"limit": limit}).status_code == 422, limit
