"""A runner's process keeps its memory between steps, unless the operator says otherwise."""

import subprocess
import sys

import pytest

from worker.supervision.process import runner_environment

MALLOC = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")
# Twenty times, as training steps do, 256 MB in 8 MB pieces, all freed; prints the pages that it had to get.
STEPS = """
import resource
def step():
    return len([bytes([i]) * (8 << 20) for i in range(32)])
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _count_pages(environment: dict[str, str]) -> int:
    command = [sys.executable, "-c", STEPS]
    return int(subprocess.run(command, env=environment, capture_output=True, check=True).stdout)


@pytest.fixture
def unset(monkeypatch):
    for name in MALLOC:
        monkeypatch.delenv(name, raising=False)


def test_a_step_gets_the_memory_of_the_step_before(unset):
    given = runner_environment(threads=1, gpu=None)
    without = {name: value for name, value in given.items() if name not in MALLOC}
    assert _count_pages(given) < _count_pages(without) / 10


def test_what_the_operator_has_set_for_malloc_counts(unset, monkeypatch):
    monkeypatch.setenv(MALLOC[1], "131072")
    environment = runner_environment(threads=1, gpu=None)
    assert environment[MALLOC[1]] == "131072"
    assert environment[MALLOC[0]] != "131072"
