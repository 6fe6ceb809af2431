"""The real application on a database of its own, with two doctors, each with a campaign and a key."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import text

from notifier.api import create_app
from notifier.api.auth import make_key
from notifier.models import Campaign, Delivery
from notifier.settings import Settings
from notifier.store import Database
from tests.factories import make_campaign, make_settings, person, start_campaign


@dataclass
class World:
    """Doctor 1 sends to three patients; doctor 2 has a draft of one. Made once, looked at from all sides."""

    mine: int
    others: int
    doctor: int
    other_doctor: int


Ask = Callable[[str | None], TestClient]


@pytest.fixture
def current(database_url: str) -> Settings:
    return make_settings(database_url)


@pytest.fixture
def app(current: Settings) -> Iterator[FastAPI]:
    app = create_app(current)
    yield app
    app.state.context.database.dispose()


@pytest.fixture
def ask(app: FastAPI) -> Ask:
    """A client that bears this key."""

    def client(secret: str | None) -> TestClient:
        headers = {} if secret is None else {"Authorization": f"Bearer {secret}"}
        return TestClient(app, headers=headers, raise_server_exceptions=False)

    return client


@pytest.fixture
def new_key(database: Database) -> Callable[[int | None], str]:
    def make(doctor_id: int | None) -> str:
        with database.staff() as session:
            return make_key(session, "test", doctor_id)[1]

    return make


@pytest.fixture
def operations(ask: Ask, new_key: Callable[[int | None], str]) -> TestClient:
    return ask(new_key(None))


@pytest.fixture
def world(database: Database, current: Settings) -> World:
    mine = start_campaign(database, current, [person(1), person(2), person(3, email=None)], number=1)
    others = make_campaign(database, current, [person(4)], number=2)
    with database.staff() as session:
        return World(mine.id, others, mine.doctor_id, session.get_one(Campaign, others).doctor_id)


@pytest.fixture
def doctor(ask: Ask, new_key: Callable[[int | None], str], world: World) -> TestClient:
    return ask(new_key(world.doctor))


@pytest.fixture
def other_doctor(ask: Ask, new_key: Callable[[int | None], str], world: World) -> TestClient:
    return ask(new_key(world.other_doctor))


def first_delivery(database: Database, campaign_id: int, channel: str = "sms") -> int:
    with database.staff() as session:
        return (
            session.query(Delivery.id)
            .filter_by(campaign_id=campaign_id, channel=channel)
            .order_by(Delivery.id)
            .limit(1)
            .scalar()
        )


def count(database: Database, table: str) -> int:
    with database.staff() as session:
        return session.scalar(text(f"SELECT count(*) FROM {table}"))
