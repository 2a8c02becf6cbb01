"""Whoever hears hints goes on hearing them, whatever its broker was for a while."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from app import valkey
from app.core.queue import ANY_QUEUE, RUN_JOB, make_celery, publish
from tests.support.service import wait_for

_WORKER = (
    "import sys; from app.core.queue import ANY_QUEUE, make_celery;"
    "make_celery(sys.argv[1]).worker_main(['--quiet', 'worker', '--pool=threads', '--concurrency=1',"
    " f'--queues={ANY_QUEUE}', '--without-gossip', '--without-mingle'])"
)
# What a replica says to whoever waits for a message, and to whoever would take one.
_REFUSALS = {"errorstat_UNBLOCKED", "errorstat_READONLY"}


@pytest.fixture
def broker(tmp_path) -> Iterator[Path]:
    """A Valkey of the test's own, by its socket."""
    socket = valkey.socket_path(tmp_path)
    command = valkey.server_command(valkey.find_binary(), tmp_path, socket)
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
        wait_for(socket.exists, "the broker")
        yield socket
        server.terminate()


def test_a_broker_that_was_a_replica_for_a_while_is_heard_again(broker):
    url, client = valkey.broker_url(broker), redis.Redis(unix_socket_path=str(broker))

    def hint() -> None:
        with make_celery(url) as celery:
            publish(celery, RUN_JOB, "job_1")
        wait_for(lambda: client.llen(ANY_QUEUE) == 0, "the hint to be taken")

    worker = subprocess.Popen([sys.executable, "-c", _WORKER, url], stderr=subprocess.DEVNULL)
    try:
        hint()
        client.replicaof("127.0.0.1", "1")
        wait_for(lambda: client.info("errorstats").keys() & _REFUSALS, "the worker to be refused")
        client.replicaof("NO", "ONE")
        hint()
    finally:
        worker.kill()
        worker.wait()
