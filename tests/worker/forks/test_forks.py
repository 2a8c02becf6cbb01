"""A forked process is like one in an interpreter of its own: its streams, exit code, group and end."""

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from app.core.errors import Unavailable
from tests.support.started import WITHIN_S, Started
from worker.forks.client import LOST, Spawner, Starter, spawn_server
from worker.protocol import ModelInput
from worker.supervision.process import runner_environment

MODULE = "tests.worker.forks.forked_module"
IMPORTED = "tests.worker.forks.imported_module"
MISSING = "tests.worker.forks.no_such_module"


@pytest.fixture(scope="module")
def forks():
    server = spawn_server(MODULE, {**runner_environment(threads=1, gpu=None), "MARK": "here"})
    yield server
    server.close()


@pytest.fixture(params=["forked", "spawned"])
def starter(request, forks) -> Starter:
    return forks if request.param == "forked" else Spawner(MODULE)


ENDS = [
    (["answer"], 7),
    (["exit", "28"], 28),
    (["exit"], 0),
    (["exit", "words"], 1),
    (["signal", str(signal.SIGKILL.value)], -signal.SIGKILL),
    (["signal", str(signal.SIGSEGV.value)], -signal.SIGSEGV),
    (["nothing that it knows"], 1),
]


@pytest.mark.parametrize(("arguments", "status"), ENDS)
def test_it_ends_with_what_its_main_returned_or_what_ended_it(starter, arguments, status):
    started = Started(starter, *arguments)
    assert started.read()[2] == status
    assert started.child.poll() == started.child.returncode == status


@pytest.mark.parametrize(
    ("arguments", "said"), [(["raise"], "ValueError: as it was asked to"), (["exit", "words"], "words")]
)
def test_what_it_raises_is_told_on_stderr(starter, arguments, said):
    _, err, status = Started(starter, *arguments).read()
    assert status == 1
    assert err.splitlines()[-1] == said


def test_it_ends_by_itself_when_nobody_reads_what_it_said(starter):
    stdout, stdin = os.pipe()
    os.close(stdout)
    child = starter.start(["answer"], stdin=0, stdout=stdin, stderr=2)
    os.close(stdin)
    # An interpreter that cannot flush ends with 120, and what writes without a buffer with 1.
    assert child.wait(WITHIN_S) in (1, 7, 120)


def test_arguments_arrive_as_they_are_and_it_leads_a_group(starter):
    started = Started(starter, "answer", "two words", "ü", "")
    said = json.loads(started.read()[0])
    assert said["rest"] == ["two words", "ü", ""]
    assert said["pid"] == said["group"] == started.child.pid


def test_one_knows_nothing_of_the_one_before(forks):
    assert [Started(forks, "remember").read()[0] for _ in range(3)] == ["[]"] * 3


def test_what_one_needs_is_imported_once_for_all(forks):
    def ask(**how) -> list[int]:
        return json.loads(Started(forks, "importer", IMPORTED, **how).read()[0])

    alone, by_itself = ask()
    assert by_itself == alone
    (first, importer), (second, again) = (ask(imports=[IMPORTED]) for _ in range(2))
    assert importer == again
    assert importer not in (first, second)


def test_what_cannot_be_imported_before_is_for_the_process_to_tell(forks):
    started = Started(forks, "importer", MISSING, imports=[MISSING])
    assert "No module named" in started.read()[1]
    assert Started(forks, "answer", imports=[MISSING]).read()[2] == 7


def test_its_environment_is_its_servers(forks, monkeypatch):
    monkeypatch.setenv("SECATEUR_DATABASE_URL", "a secret")
    found = json.loads(Started(forks, "environment").read()[0])
    assert found["MARK"] == "here"
    assert "SECATEUR_DATABASE_URL" not in found


def test_nothing_is_fetched_from_a_hub_by_what_was_imported_before_the_fork(monkeypatch):
    """It is decided when its library is imported, and by then no runner has said anything."""
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    server = spawn_server(MODULE, runner_environment(threads=1, gpu=None))
    folder = ModelInput(format="huggingface", architecture={}, files={}, sha256={})
    assert Started(server, "offline", imports=folder.imports).read()[0] == "True"
    server.close()


def test_it_holds_no_descriptor_besides_its_streams(forks):
    before = [Started(forks, "sleep") for _ in range(3)]
    for one in before:
        one.sleep()
    assert json.loads(Started(forks, "descriptors").read()[0]) == [0, 1, 2]
    open_before = psutil.Process(before[0].child.pid).num_fds()
    open_after = psutil.Process(before[2].child.pid).num_fds()
    assert open_before == open_after == 3
    for one in before:
        os.killpg(one.child.pid, signal.SIGKILL)
        assert one.read()[2] == -signal.SIGKILL


def test_a_signal_to_its_group_reaches_it_as_soon_as_it_is_known(forks):
    for _ in range(20):
        started = Started(forks, "sleep")
        os.killpg(started.child.pid, signal.SIGKILL)
        assert started.read()[2] == -signal.SIGKILL


def test_waiting_ends_when_the_time_is_over(starter):
    started = Started(starter, "sleep")
    started.sleep()
    assert started.child.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        started.child.wait(0.05)
    os.killpg(started.child.pid, signal.SIGTERM)
    assert started.read()[2] == -signal.SIGTERM


def test_many_threads_get_each_its_own(forks):
    def ask(number: int) -> str:
        return json.loads(Started(forks, "answer", str(number)).read()[0])["rest"][0]

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(40))) == [str(number) for number in range(40)]


def test_what_was_forked_outlives_its_server_and_the_next_has_a_new_one(forks):
    started = Started(forks, "sleep")
    server = started.sleep().parent()
    server.kill()
    server.wait(WITHIN_S)
    assert started.child.poll() is None
    # The next request finds out, and nobody has to ask twice.
    assert Started(forks, "answer").read()[2] == 7
    os.killpg(started.child.pid, signal.SIGKILL)
    assert started.read()[2] == LOST


def test_a_server_that_was_prepared_serves_the_first_request():
    server = spawn_server(MODULE, runner_environment(threads=1, gpu=None))
    server.prepare()
    prepared = server._server
    assert Started(server, "answer").read()[2] == 7
    server.prepare()
    assert server._server is prepared
    server.close()


def test_a_server_ends_with_whoever_asked_it():
    code = (
        "import os, sys; from worker.forks.client import spawn_server;"
        f"server = spawn_server('{MODULE}', os.environ);"
        "child = server.start(['answer'], stdin=0, stdout=2, stderr=2); child.wait();"
        "print(server._server.process.pid, flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(int(done.stdout)).wait(WITHIN_S)


def test_a_server_that_cannot_start_is_no_fault_of_the_job():
    server = spawn_server(MISSING, os.environ)
    with pytest.raises(Unavailable, match="no process could be forked"):
        server.start([], stdin=0, stdout=1, stderr=2)
    server.close()


def test_a_system_without_room_for_a_server_is_met_by_the_first_request_and_not_before():
    server = spawn_server(MODULE, runner_environment(threads=1, gpu=None))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        server.prepare()
        with pytest.raises(Unavailable, match="no process could be forked"):
            server.start([], stdin=0, stdout=1, stderr=2)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert Started(server, "answer").read()[2] == 7
    server.close()


def test_the_module_of_runners_starts_no_thread_and_touches_no_gpu():
    """What is imported before a fork decides whether the fork is sound."""
    folder = ModelInput(format="huggingface", architecture={}, files={}, sha256={})
    modules = ("worker.runner", "worker.export.clean", *folder.imports)
    assert len(modules) > 2
    code = (
        f"import os, sys, {', '.join(modules)};"
        "maps = open('/proc/self/maps').read();"
        'sys.exit(f\'{len(os.listdir("/proc/self/task"))} {"libcuda.so" in maps}\')'
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=runner_environment(threads=2, gpu=None),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr.strip() == "1 False"
