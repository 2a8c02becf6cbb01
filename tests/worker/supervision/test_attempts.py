"""Why attempts end, with runners that do one thing wrong: the class, what it costs, what comes next."""

import json

import pytest
from sqlalchemy import select, update

from app.core.config import Settings
from app.core.errors import Blame, FolderBusy, OutOfMemory, StorageFull, Unavailable
from app.core.job_returns import MAX_SETBACKS
from app.core.tables import Job, JobAttempt
from tests.support import digits
from tests.worker.conftest import SCRIPTED, add_model
from worker.protocol import Failed, MemoryRanOut
from worker.supervision.context import make_context
from worker.supervision.slots import make_slots
from worker.supervisor import run_waiting_jobs

STEP = '{"type": "progress", "stage": "finetune", "fraction": 0.5, "step": 7, "total": 9, "eta_s": null}'


@pytest.fixture
def run_script(context, submit, write_runner):
    """Run a job whose runner is a script."""
    model_id = add_model(context, digits.model_bytes())

    def run(script: str, *, given=context, **resources) -> tuple[Job, JobAttempt]:
        write_runner(script)
        job_id = submit(model_id, resources=resources)
        run_waiting_jobs(given)
        with context.sessions() as session:
            query = select(JobAttempt).where(JobAttempt.job_id == job_id).order_by(JobAttempt.epoch.desc())
            return session.get_one(Job, job_id), session.scalars(query.limit(1)).one()

    return run


def say(*messages) -> str:
    return "".join(
        f"print({one if isinstance(one, str) else one.model_dump_json()!r}, flush=True)\n" for one in messages
    )


def failed(error: type, blame: Blame) -> Failed:
    return Failed(problem=error("it was so").problem(), blame=blame)


@pytest.mark.parametrize(
    ("error", "blame", "class_"),
    [
        (Unavailable, Blame.TRANSIENT, "transient"),
        (StorageFull, Blame.RESOURCE, "resource"),
        (FolderBusy, Blame.WORKER, "transient"),
    ],
)
def test_what_passes_by_itself_is_tried_again_later_and_costs_nothing(run_script, error, blame, class_):
    job, attempt = run_script(say(failed(error, blame)))
    assert (job.status, job.attempt, job.setbacks) == ("queued", 0, 1)
    assert job.next_run_at is not None
    assert (attempt.ended, attempt.class_, attempt.detail) == ("failed", class_, "it was so")


@pytest.mark.parametrize(
    ("error", "blame", "status"), [(Unavailable, "transient", "failed"), (FolderBusy, "worker", "queued")]
)
def test_what_one_worker_lacks_never_ends_a_job(context, submit, write_runner, error, blame, status):
    write_runner(say(failed(error, Blame(blame))))
    job_id = submit(add_model(context, digits.model_bytes()))
    with context.sessions.begin() as session:
        session.execute(update(Job).values(setbacks=MAX_SETBACKS))
    run_waiting_jobs(context)
    with context.sessions() as session:
        assert session.get_one(Job, job_id).status == status


def test_memory_that_runs_out_ends_the_job_as_a_want_of_resources(run_script):
    job, attempt = run_script(say(failed(OutOfMemory, Blame.RESOURCE)))
    assert (job.status, job.error["code"], attempt.class_) == ("failed", "out_of_memory", "resource")


def test_a_batch_that_was_halved_is_told_even_of_an_attempt_that_goes_on(run_script):
    halved = MemoryRanOut(stage="finetune", detail="memory ran out")
    _, attempt = run_script(say(halved, failed(Unavailable, Blame.TRANSIENT)))
    assert attempt.class_ == "transient"
    _, attempt = run_script(say(halved), max_attempts=1)
    assert (attempt.class_, attempt.ended) == ("crash_loop", "crashed")


def test_a_bug_is_told_from_a_user_s_mistake(run_script):
    for blame in (Blame.BUG, Blame.USER):
        _, attempt = run_script(say(failed(OutOfMemory, blame)))
        assert attempt.class_ == blame


def test_the_last_crash_of_all_is_a_crash_loop(run_script, context):
    job, attempt = run_script("import os\nos._exit(9)\n", max_attempts=2)
    assert (job.status, job.error["code"], job.attempt) == ("failed", "crash_loop", 2)
    assert attempt.class_ == "crash_loop"
    with context.sessions() as session:
        classes = session.scalars(select(JobAttempt.class_).order_by(JobAttempt.epoch)).all()
    assert classes == ["crash", "crash_loop"]


def test_a_runner_that_lives_and_takes_no_step_is_stalled(run_script, context):
    hung = context.settings.model_copy(update={"stall_timeout_s": 2.0})
    object.__setattr__(context, "settings", hung)
    script = f"import time\nwhile True:\n    print({STEP!r}, flush=True)\n    time.sleep(0.1)\n"
    job, attempt = run_script(script, max_attempts=1)
    assert (job.status, attempt.ended, attempt.class_) == ("failed", "stalled", "crash_loop")
    assert "no step for 2 s" in job.error["detail"]


def test_the_time_of_all_attempts_counts(run_script):
    script = "import time\ntime.sleep(1.2)\nraise SystemExit(9)\n"
    job, attempt = run_script(script, max_attempts=20, timeout_s=2)
    assert (job.status, job.error["code"]) == ("failed", "timeout")
    assert 1 < job.attempt < 20
    assert attempt.class_ == "user"


def test_a_worker_with_gpus_shows_each_job_its_own_alone(run_script, context, tmp_path):
    gpu = {"worker_device": "cuda", "worker_gpus": [3], "runner_module": SCRIPTED}
    with_gpu = make_context(Settings(data_dir=context.settings.data_dir, beat_s=0.2, **gpu))
    seen = tmp_path / "seen.json"
    spy = f"import json, os\njson.dump(os.environ['CUDA_VISIBLE_DEVICES'], open({str(seen)!r}, 'w'))\n"
    _, attempt = run_script(spy, given=with_gpu, device="cuda", max_attempts=1)
    assert json.loads(seen.read_text()) == "3"
    assert attempt.device == "cuda:3"
    run_script(spy, given=with_gpu, device="cpu", max_attempts=1)
    assert json.loads(seen.read_text()) == ""


def test_each_gpu_has_one_place_and_no_more(context):
    slots = make_slots(Settings(data_dir=context.settings.data_dir, worker_device="cuda", worker_gpus=[0, 2]))
    first, second = slots.take(), slots.take()
    assert [first.gpu, second.gpu] == [0, 2]
    assert slots.take() is None
    slots.give(second)
    assert slots.take() == second
