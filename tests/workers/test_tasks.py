"""Tickets are promises to messages of another release: old forms are done, unknown ones dropped."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import psycopg
import pytest
from dramatiq.brokers.stub import StubBroker

from notifier.states import Channel
from workers.tasks import Tasks


class FakeSender:
    """Keeps what it is asked for; campaign 13 fails as a database that went away does."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int, int | None]] = []

    async def work(self, campaign_id: int, epoch: int, rows: int | None = None) -> int:
        self.asked.append((campaign_id, epoch, rows))
        if campaign_id == 13:
            raise psycopg.OperationalError("gone")
        return 1


@pytest.fixture
def email() -> FakeSender:
    return FakeSender()


@pytest.fixture
def tasks(email: FakeSender) -> Tasks:
    return Tasks(StubBroker(), SimpleNamespace(senders={Channel.EMAIL: email, Channel.SMS: FakeSender()}))


def test_a_ticket_names_campaigns_their_epochs_and_the_rows_of_each(tasks: Tasks, email: FakeSender):
    asyncio.run(tasks._send_email(2, 50, [[7, 3], [8, 1]]))
    assert email.asked == [(7, 3, 50), (8, 1, 50)]


def test_a_ticket_of_the_first_form_is_still_done(tasks: Tasks, email: FakeSender):
    asyncio.run(tasks._send_email(1, 7, 3))
    assert email.asked == [(7, 3, None)]


@pytest.mark.parametrize("arguments", [(3, 50, [[7, 3]]), (2, 7, 3), (1, 7, [[7, 3]])])
def test_a_form_nobody_knows_is_dropped(tasks: Tasks, email: FakeSender, arguments: tuple[object, ...]):
    asyncio.run(tasks._send_email(*arguments))
    assert email.asked == []


def test_trouble_with_one_campaign_leaves_the_others_their_turn(tasks: Tasks, email: FakeSender):
    asyncio.run(tasks._send_email(2, 50, [[13, 1], [7, 3]]))
    assert len(email.asked) == 2


def test_a_test_send_of_an_unknown_form_is_dropped():
    sent: list[tuple[Channel, int]] = []

    class FakeControl:
        async def send(self, channel: Channel, number: int) -> None:
            sent.append((channel, number))

    tasks = Tasks(StubBroker(), control=FakeControl())
    asyncio.run(tasks._send_test(2, 5, "email"))
    asyncio.run(tasks._send_test(1, 6, "sms"))
    assert sent == [(Channel.SMS, 6)]
