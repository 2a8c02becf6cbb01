"""The deep check of a model: a verdict in the row, once, with names."""

import numpy as np
import pytest
from safetensors.numpy import load, save
from sqlalchemy import select

from app.core import checks
from app.core.blobs import Blobs
from app.core.config import Settings
from app.core.db import now_plus
from app.core.errors import StorageFull, Unavailable
from app.core.storage import open_store
from app.core.tables import Model, OutboxMessage
from tests.support import digits
from tests.support.s3 import KEYS
from tests.support.service import wait_for
from tests.worker.conftest import add_model
from worker.protocol import Failed
from worker.supervision.draining import Draining
from worker.supervision.input_cache import InputCache
from worker.supervision.model_check import check_hinted_model


def checked(context, data, **changes) -> Model:
    model_id = add_model(context, data, **changes)
    check_hinted_model(context, model_id)
    with context.sessions() as session:
        return session.get_one(Model, model_id)


def test_a_good_model_becomes_ready_with_what_was_measured(context):
    model = checked(context, digits.model_bytes())
    assert (model.status, model.rejection) == ("ready", None)
    assert model.macs > 0
    assert model.parameters == sum(layer["parameters"] for layer in model.inspection["layers"])
    assert model.input_signature["shape"] == [1, 8, 8]


def test_a_nan_weight_is_named(context):
    tensors = load(digits.model_bytes())
    tensors["linear.weight"][0, 0] = np.nan
    model = checked(context, save(tensors))
    assert (model.status, model.rejection["code"]) == ("rejected", "nonfinite_weights")
    assert "linear.weight" in model.rejection["detail"]


def test_missing_and_unexpected_tensors_are_named(context):
    tensors = load(digits.model_bytes())
    tensors["extra.weight"] = tensors.pop("linear.weight")
    detail = checked(context, save(tensors)).rejection["detail"]
    assert "extra.weight" in detail
    assert "linear.weight" in detail


def test_a_model_is_checked_by_one_worker_at_a_time(context):
    model_id = add_model(context, digits.model_bytes())
    with context.sessions.begin() as session:
        assert checks.begin(session, model_id, timeout_s=60.0) == 1
    with context.sessions.begin() as session:
        assert checks.begin(session, model_id, timeout_s=60.0) is None


def test_a_model_that_kills_every_check_is_rejected_in_the_end(context):
    model_id = add_model(context, digits.model_bytes())
    for check in range(1, checks.MAX_CHECKS + 1):
        with context.sessions.begin() as session:
            assert checks.begin(session, model_id, timeout_s=-1.0) == check
        with context.sessions.begin() as session:
            checks.sweep(session, hint_again_s=30.0)
    with context.sessions() as session:
        model = session.get_one(Model, model_id)
    assert (model.status, model.rejection["code"]) == ("rejected", "check_crashed")


def test_the_verdict_of_an_overtaken_check_changes_nothing(context):
    model_id = add_model(context, digits.model_bytes())
    for _ in range(2):
        with context.sessions.begin() as session:
            checks.begin(session, model_id, timeout_s=-1.0)
    with context.sessions.begin() as session:
        checks.reject(session, model_id, 1, checks.CheckCrashed("late").problem())
    with context.sessions() as session:
        assert session.get_one(Model, model_id).status == "validating"


def is_put_off(context, model_id) -> bool:
    """Tell whether nothing was held against the model, and nobody is told of it for a while."""
    with context.sessions.begin() as session:
        model = session.get_one(Model, model_id)
        checks.sweep(session, hint_again_s=30.0)
        hints = session.scalars(select(OutboxMessage)).all()
        return (model.status, model.checks, hints) == ("validating", 0, [])


@pytest.mark.parametrize("error", [StorageFull("no room"), Unavailable("away")])
def test_what_passes_by_itself_is_not_held_against_a_model(context, write_runner, error):
    failed = Failed(problem=error.problem(), blame=error.blame)
    write_runner(f"print({failed.model_dump_json()!r}, flush=True)")
    model_id = add_model(context, digits.model_bytes())
    check_hinted_model(context, model_id)
    assert is_put_off(context, model_id)


def test_a_store_that_is_away_is_not_held_against_a_model(context, tmp_path):
    nowhere = {"store_url": "s3://bucket", "store_s3_endpoint": "http://127.0.0.1:1", "store_s3_retry_s": 0.1}
    away = Blobs(context.sessions, open_store(Settings(data_dir=tmp_path / "data", **nowhere, **KEYS)))
    model_id = add_model(context, digits.model_bytes())
    object.__setattr__(context, "inputs", InputCache(away, tmp_path / "cache", max_bytes=0))
    check_hinted_model(context, model_id)
    assert is_put_off(context, model_id)


def test_a_work_folder_that_cannot_be_made_is_not_held_against_a_model(context):
    model_id = add_model(context, digits.model_bytes())
    context.settings.work_dir.write_text("in the way")
    check_hinted_model(context, model_id)
    assert is_put_off(context, model_id)


def test_a_process_that_dies_uses_a_check_up(context, write_runner):
    write_runner("raise SystemExit(9)")
    model = checked(context, digits.model_bytes())
    assert (model.status, model.checks) == ("validating", 1)


def test_a_worker_that_drains_gives_its_check_back_at_once(context, write_runner, in_background, tmp_path):
    write_runner(f"import pathlib, sys\npathlib.Path({str(tmp_path / 'runs')!r}).touch()\nsys.stdin.read()")
    model_id = add_model(context, digits.model_bytes())
    thread = in_background(check_hinted_model, context, model_id)
    wait_for((tmp_path / "runs").exists, "the check to run")
    context.draining.set()
    thread.join()
    with context.sessions.begin() as session:
        model = session.get_one(Model, model_id)
        assert (model.status, model.checks) == ("validating", 0)
        assert model.hint_at <= session.scalar(select(now_plus()))
        checks.sweep(session, hint_again_s=30.0)
        assert [hint.ref for hint in session.scalars(select(OutboxMessage))] == [model_id]


class ToldLate(Draining):
    """Set by a signal that comes to the worker after it has come to the runner."""

    def wait(self, timeout: float | None = None) -> bool:
        self.set()
        return super().wait(timeout)


def test_a_check_whose_process_the_same_sigterm_ended_is_given_back(context, write_runner):
    write_runner("import os, signal\nos.kill(os.getpid(), signal.SIGTERM)")
    object.__setattr__(context, "draining", ToldLate())
    model = checked(context, digits.model_bytes())
    assert (model.status, model.checks) == ("validating", 0)
