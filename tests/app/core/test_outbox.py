"""The outbox: what was committed is published, a failing broker loses nothing."""

import pytest

from app.core import outbox


def test_messages_are_published_once_in_order(sessions):
    with sessions.begin() as session:
        for ref in ("a", "b", "c"):
            outbox.put(session, "task", ref)
            session.flush()
    sent = []
    assert outbox.publish_pending(sessions, lambda *m: sent.append(m)) == 3
    assert outbox.publish_pending(sessions, lambda *m: sent.append(m)) == 0
    assert sent == [("task", "a"), ("task", "b"), ("task", "c")]


def test_a_broker_that_fails_half_way_loses_and_repeats_nothing(sessions):
    with sessions.begin() as session:
        for ref in ("a", "b", "c"):
            outbox.put(session, "task", ref)
            session.flush()
    sent = []

    def failing(task, ref):
        if ref == "b" and len(sent) == 1:
            sent.append("down")
            raise ConnectionError
        sent.append(ref)

    with pytest.raises(ConnectionError):
        outbox.publish_pending(sessions, failing)
    assert outbox.publish_pending(sessions, failing) == 2
    assert sent == ["a", "down", "b", "c"]


def test_a_message_of_a_rolled_back_transaction_is_never_published(sessions):
    session = sessions()
    outbox.put(session, "task", "a")
    session.flush()
    session.rollback()
    session.close()
    assert outbox.publish_pending(sessions, lambda *_: None) == 0
