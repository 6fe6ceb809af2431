"""The description of the API is valid, complete and true."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from openapi_spec_validator import validate

from notifier.api import create_app
from notifier.api.following import MOST_WAIT_S
from notifier.api.problems import MEDIA_TYPE
from tests.factories import make_settings

#: operations that ask for something else than a key
PROOF = {"/webhooks/{provider}": [{"ReportToken": []}]}
#: a POST only because a file is sent with it; they change nothing
LOOKS = {
    f"/api/v1/campaigns/{{campaign_id}}/lists/{end}" for end in ("look", "report", "corrections", "suggestions")
} | {
    # … or because something leaves the house: a message that only asks, a file made anew each time
    "/api/v1/callbacks/{callback_id}/test",
    "/api/v1/campaigns/{campaign_id}/proof",
}


@pytest.fixture(scope="module")
def app() -> FastAPI:
    """Needs no database to be described."""
    return create_app(make_settings("postgresql://nobody@127.0.0.1:1/none"))


def test_the_document_is_valid_and_served_without_a_key(app: FastAPI) -> None:
    document = TestClient(app).get("/openapi.json").json()
    validate(document)
    assert document == app.openapi()


def test_every_operation_is_described(app: FastAPI) -> None:
    document = app.openapi()
    names = []
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            where = f"{method} {path}"
            names.append(operation["operationId"])
            assert re.fullmatch(r"[a-z]+(_[a-z]+)*", operation["operationId"]), where
            assert operation["tags"], where
            assert operation["summary"], where
            assert operation["description"], where
            proof = [{"ApiKey": []}] if path.startswith("/api/") else PROOF.get(path)
            assert operation.get("security") == proof, where
            assert ("401" in operation["responses"]) == (proof is not None), where
            for status, answer in operation["responses"].items():
                if status >= "400":
                    assert list(answer["content"]) == [MEDIA_TYPE], f"{where} {status}"
    assert len(set(names)) == len(names)


def test_every_creating_or_acting_post_takes_an_idempotency_key(app: FastAPI) -> None:
    for path, operations in app.openapi()["paths"].items():
        if path.startswith("/api/") and "post" in operations:
            expected = [] if path in LOOKS else ["Idempotency-Key"]
            headers = [one["name"] for one in operations["post"]["parameters"] if one["in"] == "header"]
            assert headers == expected, path


def test_what_can_be_wrong_with_a_body_is_described(app: FastAPI) -> None:
    for path, operations in app.openapi()["paths"].items():
        for method, operation in operations.items():
            if method in ("post", "put"):
                expected = {"400", "413"} | ({"415"} if path.startswith("/api/") else set())
                assert expected <= set(operation["responses"]), f"{method} {path}"


def test_numbers_are_described_as_they_are_taken(app: FastAPI) -> None:
    def largest(part: Any) -> Iterator[Any]:
        for value in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
            yield from largest(value)
        if isinstance(part, dict) and isinstance(part.get("maximum"), int | float):
            yield part["maximum"]

    assert set(largest(app.openapi())) == {MOST_WAIT_S, 200, 2**53 - 1}


def test_no_schema_has_a_name_made_for_python(app: FastAPI) -> None:
    names = set(app.openapi()["components"]["schemas"])
    assert not [name for name in names if "__" in name or "-" in name]
    assert {"CampaignState", "DeliveryState", "Problem"} <= names


def test_nothing_is_loaded_from_elsewhere(app: FastAPI) -> None:
    client = TestClient(app)
    for path in ("/docs", "/redoc"):
        assert client.get(path).status_code == 404
    assert client.get("/openapi.json").headers["content-security-policy"].startswith("default-src 'none'")
