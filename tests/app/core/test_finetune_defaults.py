"""What a fine-tune is where the spec leaves it open."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from app.core.finetune import Distillation
from app.core.finetune_defaults import resolve_recovery
from app.core.spec import JobSpec

TASKS = ["image-classification", "text-classification", "language-modeling", "regression"]
tasks = st.sampled_from([*TASKS, "something new", None])
settings = st.fixed_dictionaries(
    {},
    optional={
        "epochs": st.none() | st.integers(1, 9),
        "batch_size": st.integers(1, 99),
        "optimizer": st.sampled_from(["sgd", "adamw"]),
        "learning_rate": st.floats(1e-6, 1.0),
        "augment": st.booleans(),
        "clip_norm": st.none() | st.floats(0.1, 2.0),
        "distillation": st.none() | st.fixed_dictionaries({}, optional={"alpha": st.floats(0.0, 1.0)}),
        "keep_best": st.booleans(),
    },
)


def read(finetune, **recipe) -> JobSpec:
    spec = {
        "model_id": "mdl_" + "0" * 26,
        "recipe": {"target": {"value": 0.5}, **recipe},
        "finetune": finetune,
    }
    return JobSpec.model_validate_json(json.dumps(spec))


@given(settings, tasks)
def test_a_resolved_spec_resolves_to_itself(finetune, task):
    resolved = resolve_recovery(read(finetune), task)
    again = JobSpec.model_validate_json(resolved.model_dump_json())
    assert resolve_recovery(again, task) == again == resolved


@given(settings, tasks)
def test_what_is_given_is_kept_and_there_is_exactly_one_length(finetune, task):
    resolved = resolve_recovery(read(finetune), task).finetune.model_dump()
    for name, value in finetune.items():
        if isinstance(value, dict):
            assert value.items() <= resolved[name].items()
        elif name != "epochs":
            assert resolved[name] == value
    assert resolved["epochs"] == finetune.get("epochs") or finetune.get("epochs") is None
    assert (resolved["epochs"] is None) != (resolved["max_steps"] is None)


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("image-classification", ("sgd", 0.02, 128, "cosine", 8, None, 4.0, True)),
        ("text-classification", ("adamw", 5e-5, 32, "linear", 3, 1.0, 2.0, False)),
        ("language-modeling", ("adamw", 5e-5, 32, "linear", 2, 1.0, 2.0, False)),
        ("regression", ("adamw", 5e-5, 32, "linear", 3, 1.0, 2.0, False)),
    ],
)
def test_every_task_has_its_own_defaults(task, expected):
    found = resolve_recovery(read({}), task).finetune
    assert found.distillation.alpha == 0.9
    assert expected == (
        found.optimizer,
        found.learning_rate,
        found.batch_size,
        found.decay,
        found.epochs,
        found.clip_norm,
        found.distillation.temperature,
        found.augment,
    )


def test_the_learning_rate_is_that_of_the_optimizer_asked_for():
    assert (
        resolve_recovery(read({"optimizer": "adamw"}), "image-classification").finetune.learning_rate == 1e-3
    )


def test_null_is_as_good_as_nothing_except_where_it_says_none():
    found = resolve_recovery(read({"learning_rate": None, "clip_norm": None, "distillation": None}), TASKS[1])
    assert found.finetune.learning_rate == 5e-5
    assert (found.finetune.clip_norm, found.finetune.distillation) == (None, None)


def test_fine_tuning_makes_the_schedule_gradual_unless_one_is_given():
    assert resolve_recovery(read({}), None).recipe.schedule.name == "cubic"
    assert resolve_recovery(read({}, schedule={"name": "one_shot"}), None).recipe.schedule.name == "one_shot"
    assert resolve_recovery(read(None), None).recipe.schedule.name == "one_shot"


def test_where_nothing_is_pruned_no_schedule_is_made_gradual():
    # What cuts units out and zeroes nothing is trained with the mask of its first step, which is whole.
    assert resolve_recovery(read({}, target={"value": 0.0}), None).recipe.schedule.name == "one_shot"
    size = {"metric": "macs", "value": 0.0}
    assert resolve_recovery(read({}, target=size), None).recipe.schedule.name == "cubic"


@pytest.mark.parametrize("name", ["lottery_ticket", "rigl", "set"])
def test_what_trains_from_the_start_has_a_teacher_only_where_one_is_asked_for(name):
    def distillation(finetune):
        return resolve_recovery(read(finetune, schedule={"name": name}), TASKS[0]).finetune.distillation

    assert distillation({}) is None
    assert distillation({"distillation": {"alpha": 0.5}}) == Distillation(alpha=0.5, temperature=4.0)


def test_without_finetune_nothing_is_trained():
    assert resolve_recovery(read(None), TASKS[0]).finetune is None


@pytest.mark.parametrize(
    "finetune",
    [
        {"epochs": 1, "max_steps": 1},
        {"epochs": 0},
        {"accumulate": 0},
        {"clip_norm": 0.0},
        {"momentum": 1.0},
        {"momentum": 0.0},
        {"precision": "float16"},
        {"early_stopping": {"patience": 0}},
        {"distillation": {"hidden_states": 0.0}},
    ],
)
def test_what_makes_no_sense_is_refused(finetune):
    with pytest.raises(ValidationError):
        read(finetune)
