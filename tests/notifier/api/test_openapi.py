"""The description of the API is valid, complete and true."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from jsonschema import Draft202012Validator
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


Document = dict[str, Any]


@pytest.fixture(scope="module")
def app() -> FastAPI:
    """Needs no database to be described."""
    return create_app(make_settings("postgresql://nobody@127.0.0.1:1/none"))


@pytest.fixture(scope="module")
def document(app: FastAPI) -> Document:
    return app.openapi()


def operations(document: Document) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each with its method and path."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"{method} {path}", operation


def parts(part: Any) -> Iterator[dict[str, Any]]:
    """Every object within."""
    if isinstance(part, dict):
        yield part
    for value in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
        yield from parts(value)


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def test_the_document_is_valid_and_served_without_a_key(app: FastAPI) -> None:
    document = TestClient(app).get("/openapi.json").json()
    validate(document)
    assert document == app.openapi()


# --- what strict linters ask (Spectral's `oas`, Redocly's `recommended-strict`, read 2026-11-25) ---------------


def test_the_document_says_whose_it_is_and_where(document: Document) -> None:
    info = document["info"]
    assert all(info[name] for name in ("title", "version", "description"))
    assert info["contact"]["name"]
    assert info["contact"]["url"].startswith("http")
    assert info["license"]["name"]
    assert info["license"]["url"].startswith("https://")
    assert [server["url"] for server in document["servers"]] == ["/"]


def test_every_operation_is_described(document: Document) -> None:
    names = []
    for where, operation in operations(document):
        names.append(operation["operationId"])
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", operation["operationId"]), where
        assert operation["summary"], where
        assert not operation["summary"].endswith("."), where
        assert operation["description"], where
    assert len(set(names)) == len(names) > 50


def test_every_tag_is_declared_described_and_used(document: Document) -> None:
    declared = [tag["name"] for tag in document["tags"]]
    assert len(set(declared)) == len(declared)
    assert all(tag["description"] for tag in document["tags"])
    assert {tag for _, operation in operations(document) for tag in operation["tags"]} == set(declared)
    assert all(len(operation["tags"]) == 1 for _, operation in operations(document))


def test_every_operation_says_what_proves_who_asks(document: Document) -> None:
    for where, operation in operations(document):
        path = where.partition(" ")[2]
        proof = [{"ApiKey": []}] if path.startswith("/api/") else PROOF.get(path, [])
        assert operation["security"] == proof, where
        assert {name for one in proof for name in one} <= set(document["components"]["securitySchemes"])
        assert ("401" in operation["responses"]) == (proof != []), where


def test_every_operation_says_how_it_succeeds_and_how_it_is_refused(document: Document) -> None:
    for where, operation in operations(document):
        answers = operation["responses"]
        assert [status for status in answers if status.startswith("2")], where
        assert [status for status in answers if status.startswith("4")], where
        for status, answer in answers.items():
            assert answer["description"], f"{where} {status}"
            if status >= "400":
                assert list(answer["content"]) == [MEDIA_TYPE], f"{where} {status}"


def test_every_parameter_is_described_and_none_is_left_out(document: Document) -> None:
    for where, operation in operations(document):
        parameters = operation.get("parameters", [])
        assert all(one["description"] and one["schema"] for one in parameters), where
        named = [(one["in"], one["name"]) for one in parameters]
        assert len(set(named)) == len(named), where
        in_path = {one["name"] for one in parameters if one["in"] == "path" and one["required"]}
        assert in_path == set(re.findall(r"{(\w+)}", where)), where


def test_examples_and_defaults_are_what_the_schema_allows(document: Document) -> None:
    seen = 0
    for schema in parts(document):
        for value in [*as_list(schema.get("examples")), *([schema["default"]] if "default" in schema else [])]:
            # References begin at the root of a schema.
            Draft202012Validator({**schema, "components": document["components"]}).validate(value)
            seen += 1
    assert seen > 30


def test_every_enumeration_is_of_its_type(document: Document) -> None:
    for schema in parts(document):
        if isinstance(schema.get("enum"), list):
            Draft202012Validator({"items": {"type": schema["type"]}, "uniqueItems": True}).validate(schema["enum"])


def test_every_list_says_of_what_and_every_pattern_is_read_alike(document: Document) -> None:
    for schema in parts(document):
        if schema.get("type") == "array":
            assert "items" in schema, schema
        if isinstance(schema.get("pattern"), str):
            re.compile(schema["pattern"])
            # ECMAScript without `u` takes what is beyond for two characters, Python has no \\p.
            assert max(schema["pattern"]) < "\U00010000"
            assert "\\p" not in schema["pattern"]


def test_no_component_is_left_over(document: Document) -> None:
    named = {part["$ref"] for part in parts(document) if isinstance(part.get("$ref"), str)}
    assert named == {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}


# --- what this API promises ------------------------------------------------------------------------------------


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


def test_numbers_are_described_as_they_are_taken(document: Document) -> None:
    largest = {part["maximum"] for part in parts(document) if isinstance(part.get("maximum"), int | float)}
    assert largest == {MOST_WAIT_S, 200, 2**53 - 1}


def test_no_schema_has_a_name_made_for_python(app: FastAPI) -> None:
    names = set(app.openapi()["components"]["schemas"])
    assert not [name for name in names if "__" in name or "-" in name]
    assert {"CampaignState", "DeliveryState", "Problem"} <= names


def test_nothing_is_loaded_from_elsewhere(app: FastAPI) -> None:
    client = TestClient(app)
    for path in ("/docs", "/redoc"):
        assert client.get(path).status_code == 404
    assert client.get("/openapi.json").headers["content-security-policy"].startswith("default-src 'none'")
