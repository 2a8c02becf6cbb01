"""A GPU that does not compute gets no job, costs no job anything, and is taken up again when it does."""

import pytest

from app.core.config import Settings
from app.core.tables import Job, JobAttempt
from tests.support import digits
from tests.worker.conftest import add_model
from worker.supervision import gpus
from worker.supervision.context import make_context
from worker.supervision.slots import Slot, Slots
from worker.supervisor import run_waiting_jobs

NO_SUCH_GPU = 99
# Torch, as far as a GPU is asked: the one with index 1 computes.
TORCH = """
import os
class ones:
    def __init__(self, n, device):
        assert (device, os.environ["CUDA_VISIBLE_DEVICES"]) == ("cuda", "1"), "no such device"
    def sum(self):
        return self
    def item(self):
        return 8.0
"""


def list_free(slots: Slots) -> list[str]:
    taken = list(iter(slots.take, None))
    for slot in taken:
        slots.give(slot)
    return sorted(slot.name for slot in taken)


def test_a_gpu_that_does_not_answer_is_left_out_until_it_does(caplog):
    slots = Slots([Slot(0), Slot(1)])
    gpus.ask(slots, slots.all, lambda gpu: gpu == 1)
    assert list_free(slots) == ["cuda:1"]
    gpus.ask(slots, slots.list_doubted(), lambda _: False)
    assert list_free(slots) == ["cuda:1"]
    assert [record.gpu for record in caplog.records] == [0]
    gpus.ask(slots, slots.list_doubted(), lambda _: True)
    assert list_free(slots) == ["cuda:0", "cuda:1"]


def test_places_on_the_cpu_are_never_asked():
    slots = Slots([Slot(), Slot()])
    gpus.ask(slots, slots.all, lambda _: False)
    assert list_free(slots) == ["cpu", "cpu"]


def test_torch_itself_is_asked_of_each_gpu_alone(monkeypatch, tmp_path):
    (tmp_path / "torch.py").write_text(TORCH)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert [gpus.answers(gpu) for gpu in (0, 1)] == [False, True]


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_a_worker_whose_gpu_is_broken_passes_one_job_on_and_leaves_the_others_alone(context, submit, device):
    settings = Settings(data_dir=context.settings.data_dir, worker_device="cuda", worker_gpus=[NO_SUCH_GPU])
    broken = make_context(settings)
    model_id = add_model(context, digits.model_bytes())
    first, second = (submit(model_id, resources={"device": device}) for _ in range(2))
    run_waiting_jobs(broken)
    with context.sessions() as session:
        job, attempt = session.get_one(Job, first), session.get_one(JobAttempt, (first, 1))
        assert session.get_one(Job, second).epoch == 0
    assert (job.status, job.attempt, job.error) == ("queued", 0, None)
    assert (attempt.device, attempt.class_) == (f"cuda:{NO_SUCH_GPU}", "transient")
    assert "GPU does not compute" in attempt.detail
    assert list_free(broken.slots) == []
