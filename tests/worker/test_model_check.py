"""The deep check of a model: a verdict in the row, once, with names."""

import numpy as np
from safetensors.numpy import load, save

from app.core import checks
from app.core.tables import Model
from tests.support import digits
from tests.worker.conftest import add_model
from worker.model_check import check_hinted_model


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
            assert checks.begin(session, model_id, timeout_s=0.0) == check
        with context.sessions.begin() as session:
            checks.sweep(session, hint_again_s=30.0)
    with context.sessions() as session:
        model = session.get_one(Model, model_id)
    assert (model.status, model.rejection["code"]) == ("rejected", "check_crashed")


def test_the_verdict_of_an_overtaken_check_changes_nothing(context):
    model_id = add_model(context, digits.model_bytes())
    for _ in range(2):
        with context.sessions.begin() as session:
            checks.begin(session, model_id, timeout_s=0.0)
    with context.sessions.begin() as session:
        checks.reject(session, model_id, 1, checks.CheckCrashed("late").problem())
    with context.sessions() as session:
        assert session.get_one(Model, model_id).status == "validating"
