"""Messages to webhooks: with the event or not at all, one relay at a time, by the schedule, to an end."""

import json
import threading
from datetime import UTC, datetime

import pytest
from sqlalchemy import delete, select, text, update
from sqlalchemy.exc import OperationalError

from app.core import jobs, webhooks
from app.core.db import now_plus
from app.core.errors import JobTimeout
from app.core.ids import new_id
from app.core.tables import JobEvent, Webhook, WebhookDelivery
from tests.app.core.conftest import new_job

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


@pytest.fixture
def hook_id(sessions) -> str:
    return add_hook(sessions)


def add_hook(sessions, events=("*",), **changes) -> str:
    hook = Webhook(
        id=new_id("whk"), url="https://example.org/x", events=list(events), secret=SECRET, **changes
    )
    with sessions.begin() as session:
        session.add(hook)
    return hook.id


def take(sessions, limit: int = 100, hold_s: float = 60.0, busy=(), per_webhook: int = 100):
    with sessions.begin() as session:
        return webhooks.take_due(session, limit=limit, busy=busy, per_webhook=per_webhook, hold_s=hold_s)


def run_to_failure(sessions, job_id: str) -> None:
    with sessions.begin() as session:
        lease = jobs.claim(session, job_id, "w", lease_s=60.0)
        jobs.record(session, lease, "stage.started", {}, stage="prune")
        jobs.record(session, lease, "progress", {"fraction": 0.5}, stage="prune", progress={"fraction": 0.5})
        jobs.fail(session, lease, JobTimeout("too long").problem())


def deliveries(sessions) -> list[WebhookDelivery]:
    with sessions() as session:
        return list(session.scalars(select(WebhookDelivery).order_by(WebhookDelivery.seq)))


def test_every_event_but_progress_becomes_a_message_that_says_the_same(sessions, model_id, hook_id):
    with sessions.begin() as session:
        job_id = jobs.create(session, new_job(model_id), hint_again_s=30.0).id
    run_to_failure(sessions, job_id)
    with sessions() as session:
        events = session.scalars(
            select(JobEvent).where(JobEvent.type != "progress").order_by(JobEvent.seq)
        ).all()
    made = deliveries(sessions)
    assert [(one.seq, one.type) for one in made] == [(event.seq, event.type) for event in events]
    assert [one.type for one in made][-1] == "job.failed"
    payload = json.loads(made[-1].payload)
    assert payload["type"] == "job.failed"
    assert payload["timestamp"].startswith(events[-1].at.isoformat()[:19])
    assert payload["data"] == {
        "job_id": job_id,
        "status": "failed",
        "seq": made[-1].seq,
        "stage": None,
        "error_code": "timeout",
    }


def test_a_webhook_gets_what_it_asked_for_and_a_callback_its_own_job(sessions, model_id, job_id):
    ends = add_hook(sessions, ("job.failed",))
    own = add_hook(sessions, ("job.failed",), job_id=job_id)
    add_hook(sessions, ("job.failed",), job_id="job_other")
    add_hook(sessions, ("*",), enabled=False)
    run_to_failure(sessions, job_id)
    assert sorted(one.webhook_id for one in deliveries(sessions)) == sorted([ends, own])


def test_a_message_of_an_event_that_was_rolled_back_is_never_sent(sessions, job_id, hook_id):
    session = sessions()
    jobs.claim(session, job_id, "w", lease_s=60.0)
    session.flush()
    session.rollback()
    session.close()
    assert deliveries(sessions) == []


def test_two_relays_never_take_the_same_try(sessions, hook_id):
    with sessions.begin() as session:
        made = {webhooks.put_test(session, hook_id).id for _ in range(40)}
    taken: list[str] = []
    lock = threading.Lock()

    def relay() -> None:
        while found := take(sessions, limit=3):
            with lock:
                taken.extend(one.delivery_id for one in found)

    threads = [threading.Thread(target=relay) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # Postgres may show a relay only rows that others hold, which then take them: none twice, none left.
    taken += [one.delivery_id for one in take(sessions)]
    assert sorted(taken) == sorted(made)


def test_what_a_dead_relay_held_is_taken_again_with_the_same_id(sessions, hook_id):
    with sessions.begin() as session:
        webhooks.put_test(session, hook_id)
    (first,) = take(sessions, hold_s=0.0)
    (second,) = take(sessions, hold_s=60.0)
    assert (first.delivery_id, first.payload) == (second.delivery_id, second.payload)
    assert (first.number, second.number) == (1, 2)
    # The first was not dead after all: its answer to an old try changes nothing.
    with sessions.begin() as session:
        webhooks.record_failure(session, first, 500, "answered 500")
    assert deliveries(sessions)[0].last_status is None
    with sessions.begin() as session:
        webhooks.record_taken(session, second, 204)
    assert (deliveries(sessions)[0].state, take(sessions)) == ("delivered", [])


def test_tries_follow_the_schedule_by_the_clock_of_the_database_and_end(sessions, hook_id):
    with sessions.begin() as session:
        webhooks.put_test(session, hook_id)
    waits = []
    for _ in range(len(webhooks.RETRY_AFTER_S) + 1):
        (one,) = take(sessions)
        with sessions.begin() as session:
            webhooks.record_failure(session, one, 503, "answered 503")
        with sessions.begin() as session:
            row, now = session.execute(select(WebhookDelivery, now_plus())).one()
            waits.append((row.next_try_at - now).total_seconds())
            session.execute(update(WebhookDelivery).values(next_try_at=now_plus()))
    assert [round(wait, -1) for wait in waits[1:-1]] == [300, 1800, 7200, 18_000, 36_000, 36_000]
    assert waits[0] <= 5.0
    row = deliveries(sessions)[0]
    assert (row.state, row.tries, row.last_status, row.last_error) == ("failed", 8, 503, "answered 503")
    assert take(sessions) == []


def test_a_redelivery_starts_the_schedule_anew_with_the_same_id(sessions, hook_id):
    with sessions.begin() as session:
        made = webhooks.put_test(session, hook_id).id
    (one,) = take(sessions)
    with sessions.begin() as session:
        webhooks.record_taken(session, one, 200)
        webhooks.redeliver(session, made)
    (again,) = take(sessions)
    assert (again.delivery_id, again.number, again.payload) == (made, 1, one.payload)


def fail_once(sessions, hook_id: str, status: int = 500) -> Webhook:
    with sessions.begin() as session:
        webhooks.put_test(session, hook_id)
    for one in take(sessions):
        with sessions.begin() as session:
            webhooks.record_failure(session, one, status, f"answered {status}")
    with sessions() as session:
        return session.get_one(Webhook, hook_id)


def test_a_webhook_that_only_failed_for_five_days_is_disabled_and_one_success_forgives(sessions, hook_id):
    assert fail_once(sessions, hook_id).failing_since is not None
    with sessions.begin() as session:
        session.execute(update(Webhook).values(failing_since=now_plus(-4.9 * 86_400)))
    assert fail_once(sessions, hook_id).enabled
    with sessions.begin() as session:
        webhooks.put_test(session, hook_id)
    (one,) = take(sessions)
    with sessions.begin() as session:
        webhooks.record_taken(session, one, 200)
    with sessions() as session:
        assert session.get_one(Webhook, hook_id).failing_since is None
    fail_once(sessions, hook_id)
    with sessions.begin() as session:
        session.execute(update(Webhook).values(failing_since=now_plus(-5.1 * 86_400)))
    hook = fail_once(sessions, hook_id)
    assert (hook.enabled, hook.disabled_reason) == (False, "every try failed for five days")
    with sessions.begin() as session:
        session.execute(update(WebhookDelivery).values(next_try_at=now_plus()))
    assert take(sessions) == []


def test_a_receiver_that_is_gone_is_disabled_at_once(sessions, hook_id):
    assert fail_once(sessions, hook_id, 410).enabled is False


def test_an_old_secret_signs_along_until_its_time_is_over_and_is_then_forgotten(sessions, hook_id):
    with sessions.begin() as session:
        session.execute(update(Webhook).values(old_secret="whsec_b2xk", old_secret_until=now_plus(60.0)))
        webhooks.put_test(session, hook_id)
    assert take(sessions, hold_s=0.0)[0].secrets == (SECRET, "whsec_b2xk")
    with sessions.begin() as session:
        session.execute(update(Webhook).values(old_secret_until=now_plus(-1.0)))
    assert take(sessions)[0].secrets == (SECRET,)
    with sessions.begin() as session:
        webhooks.forget_ended(session)
    with sessions() as session:
        assert session.get_one(Webhook, hook_id).old_secret is None


def test_a_webhook_with_much_to_send_leaves_room_for_others(sessions, hook_id):
    other = add_hook(sessions)
    with sessions.begin() as session:
        for _ in range(10):
            webhooks.put_test(session, hook_id)
        webhooks.put_test(session, other)
    taken = [one.webhook_id for one in take(sessions, limit=5, per_webhook=2)]
    assert (taken.count(hook_id), taken.count(other)) == (2, 1)
    assert take(sessions, busy=[hook_id]) == []


def test_what_ended_long_ago_is_forgotten_and_what_waits_is_kept(sessions, hook_id):
    with sessions.begin() as session:
        old, waiting = (webhooks.put_test(session, hook_id).id for _ in range(2))
        long_ago = now_plus(-webhooks.KEEP_ENDED_S - 1)
        session.execute(update(WebhookDelivery).values(created_at=long_ago))
        session.execute(update(WebhookDelivery).where(WebhookDelivery.id == old).values(state="failed"))
        webhooks.forget_ended(session)
    assert [one.id for one in deliveries(sessions)] == [waiting]


def test_a_webhook_that_is_deleted_while_an_event_is_written_waits_for_it(sessions, hook_id, monkeypatch):
    make_payload = webhooks._payload

    def delete_meanwhile(*given) -> str:
        # SQLite has one writer at a time anyway.
        if sessions.kw["bind"].dialect.name == "postgresql":
            with sessions() as other:
                other.execute(text("SET LOCAL lock_timeout = '100ms'"))
                with pytest.raises(OperationalError, match="lock timeout"):
                    other.execute(delete(Webhook).where(Webhook.id == hook_id))
        return make_payload(*given)

    monkeypatch.setattr(webhooks, "_payload", delete_meanwhile)
    with sessions.begin() as session:
        notice = webhooks.JobNotice(new_id("job"), 1, "job.succeeded", "succeeded", None, NOON, {})
        webhooks.put(session, notice)
    assert [one.type for one in deliveries(sessions)] == ["job.succeeded"]
