"""A worker whose hearing ends is a process that ends: whoever starts it again must see it go."""

from collections.abc import Iterator

import pytest
import redis

from app import valkey
from app.core.queue import ANY_QUEUE, RUN_JOB, make_celery, publish
from app.core.tables import Job
from tests.support import digits
from tests.support.service import Service, wait_for
from tests.worker.conftest import add_model


@pytest.fixture
def service(context) -> Iterator[Service]:
    """A broker and a worker, over the context's database."""
    one = Service(context.settings.data_dir, context.settings.database_url)
    try:
        one.restart_valkey()
        wait_for(valkey.socket_path(one.folder).exists, "the broker")
        one.start_one("worker")
        yield one
    finally:
        one.stop()


def test_a_worker_that_cannot_go_on_hearing_gives_its_job_back_and_ends_as_failed(context, submit, service):
    def read() -> Job:
        with context.sessions() as session:
            return session.get_one(Job, job_id)

    job_id = submit(add_model(context, digits.model_bytes()), epochs=500)
    with make_celery(service.settings.broker_url) as celery:
        publish(celery, RUN_JOB, job_id)
    wait_for(lambda: read().stage == "finetune", "the fine-tune")
    broker = redis.Redis(unix_socket_path=str(valkey.socket_path(service.folder)))
    broker.lpush(ANY_QUEUE, "no message")
    assert service.processes["worker"].wait(60) == 1
    assert (read().status, read().attempt) == ("queued", 0)
