"""Work folders of jobs and checks that ended go, those of jobs and checks that live stay."""

import pytest
from sqlalchemy import update

from app.core import checks, job_requests
from app.core.db import now_plus
from app.core.tables import Job, Model
from tests.support import digits
from tests.worker.conftest import add_model
from worker.lock import hold_folder
from worker.supervision.scratch import clear_ended


def clear(context, *, settled_s=60.0):
    return clear_ended(context.sessions, context.settings.work_dir, settled_s=settled_s)


def make_folder(context, job_id):
    folder = context.settings.work_dir / job_id
    folder.mkdir(parents=True)
    (folder / "checkpoint").touch()
    return folder


def end(context, job_id, *, seconds_ago):
    with context.sessions.begin() as session:
        job_requests.request_cancel(session, job_id)
        moment = now_plus(-seconds_ago)
        session.execute(update(Job).where(Job.id == job_id).values(finished_at=moment))


def test_only_folders_of_jobs_that_ended_a_while_ago_are_cleared(context, submit):
    model_id = add_model(context, digits.model_bytes())
    living, fresh, over = (submit(model_id) for _ in range(3))
    folders = {job_id: make_folder(context, job_id) for job_id in (living, fresh, over)}
    end(context, fresh, seconds_ago=1.0)
    end(context, over, seconds_ago=3600.0)
    assert clear(context) == 1
    assert [job_id for job_id, folder in folders.items() if folder.exists()] == [living, fresh]


def test_a_folder_of_a_job_that_nobody_knows_is_cleared(context):
    folder = make_folder(context, "job_" + "0" * 26)
    assert clear(context) == 1
    assert not folder.exists()


def test_a_folder_that_a_runner_still_holds_waits(context, submit):
    job_id = submit(add_model(context, digits.model_bytes()))
    folder = make_folder(context, job_id)
    end(context, job_id, seconds_ago=3600.0)
    with hold_folder(folder, wait_s=0.0):
        assert clear(context) == 0
    assert clear(context) == 1
    assert not folder.exists()


def begin_check(context, model_id) -> int:
    with context.sessions.begin() as session:
        return checks.begin(session, model_id, timeout_s=60.0)


@pytest.mark.parametrize(
    "changes",
    [{"status": "ready"}, {"checks": 2}, {"hint_at": now_plus(-3600.0)}],
    ids=["judged", "overtaken", "silent"],
)
def test_the_folder_of_a_check_whose_worker_died_is_cleared(context, changes):
    model_id = add_model(context, digits.model_bytes())
    folder = make_folder(context, f"{model_id}.{begin_check(context, model_id)}")
    with context.sessions.begin() as session:
        session.execute(update(Model).where(Model.id == model_id).values(changes))
    assert clear(context) == 1
    assert not folder.exists()


def test_the_folder_of_a_check_that_is_under_way_stays(context):
    model_id = add_model(context, digits.model_bytes())
    folder = make_folder(context, f"{model_id}.{begin_check(context, model_id)}")
    assert clear(context) == 0
    assert folder.exists()


def test_the_folder_of_a_check_that_was_given_back_stays_for_whoever_has_it_next(context):
    model_id = add_model(context, digits.model_bytes())
    number = begin_check(context, model_id)
    folder = make_folder(context, f"{model_id}.{number}")
    with context.sessions.begin() as session:
        checks.give_back(session, model_id, number, pause_s=0.0)
    assert clear(context) == 0
    assert clear(context, settled_s=-1.0) == 1
    assert not folder.exists()


def test_the_folder_of_a_check_of_a_model_that_nobody_knows_is_cleared(context):
    folder = make_folder(context, "mdl_" + "0" * 26 + ".1")
    assert clear(context) == 1
    assert not folder.exists()


def test_the_folder_of_a_check_that_a_runner_still_holds_waits(context):
    folder = make_folder(context, "mdl_" + "0" * 26 + ".1")
    with hold_folder(folder, wait_s=0.0):
        assert clear(context) == 0
    assert clear(context) == 1


def test_without_a_work_folder_there_is_nothing_to_do(context):
    assert clear(context) == 0
