"""What a fine-tune is where the spec leaves it open: the defaults of each task.

Image values were measured with `make bench-resnet`, the others are those of the literature:
docs/training.md says which.
"""

from collections.abc import Mapping
from typing import Any, Final

from app.core.finetune import Distillation, Finetune
from app.core.spec import Choice, JobSpec

_GRADUAL = Choice(name="cubic")
# Schedules that find a sparse network in training from the start: what was uploaded is seldom a teacher.
_FROM_SCRATCH = frozenset({"lottery_ticket", "rigl", "set"})
_Settings = Mapping[str, Any]  # Any: values of fields of Finetune, checked by it

_TEXT: Final[_Settings] = {
    "optimizer": "adamw",
    "batch_size": 32,
    "warmup_fraction": 0.06,
    "decay": "linear",
    "clip_norm": 1.0,
    "weight_decay": 0.01,
    "augment": False,
    "distillation": Distillation(alpha=0.9, temperature=2.0),
}
_BY_TASK: Final[Mapping[str, _Settings]] = {
    "image-classification": {
        "optimizer": "sgd",
        "batch_size": 128,
        "warmup_fraction": 0.05,
        "decay": "cosine",
        "clip_norm": None,
        "weight_decay": 1e-4,
        "augment": True,
        "distillation": Distillation(alpha=0.9, temperature=4.0),
        "epochs": 8,
    },
    "text-classification": {**_TEXT, "epochs": 3},
    "language-modeling": {**_TEXT, "epochs": 2},
    "regression": {**_TEXT, "epochs": 3},
}
_RATES: Final[Mapping[str, Mapping[str, float]]] = {
    "image-classification": {"sgd": 0.02, "adamw": 1e-3},
    "text-classification": {"sgd": 1e-3, "adamw": 5e-5},
    "language-modeling": {"sgd": 1e-3, "adamw": 5e-5},
    "regression": {"sgd": 1e-3, "adamw": 5e-5},
}


def resolve_recovery(spec: JobSpec, task: str | None) -> JobSpec:
    """Fill in what the spec leaves open about recovery: the fine-tune's settings, and a gradual schedule.

    A resolved spec stays as it is. Without `finetune` nothing is trained, and nothing changes.
    """
    if spec.finetune is None:
        return spec
    has_teacher = spec.recipe.schedule.name not in _FROM_SCRATCH
    changes: dict[str, object] = {"finetune": _resolve_finetune(spec.finetune, task, has_teacher=has_teacher)}
    target = spec.recipe.target
    prunes = target.metric != "sparsity" or target.value > 0.0
    if prunes and "schedule" not in spec.recipe.model_fields_set:
        changes["recipe"] = spec.recipe.model_copy(update={"schedule": _GRADUAL})
    return spec.model_copy(update=changes)


def _resolve_finetune(given: Finetune, task: str | None, *, has_teacher: bool) -> Finetune:
    """Return the settings with every field that was not given as the task has it; images where unknown."""
    known = task if task is not None and task in _BY_TASK else "image-classification"
    defaults = dict(_BY_TASK[known])
    defaults["learning_rate"] = _RATES[known][
        given.optimizer if _is_given(given, "optimizer") else defaults["optimizer"]
    ]
    if given.epochs is not None or given.max_steps is not None:
        del defaults["epochs"]
    filled = {
        name: value for name, value in defaults.items() if name == "epochs" or not _is_given(given, name)
    }
    if given.distillation is not None:
        filled["distillation"] = _resolve_distillation(given.distillation, defaults["distillation"])
    elif not has_teacher:
        filled["distillation"] = None
    return given.model_copy(update=filled)


def _resolve_distillation(given: Distillation, default: Distillation) -> Distillation:
    open_fields = {name: value for name, value in vars(default).items() if not _is_given(given, name)}
    return given.model_copy(update=open_fields)


def _is_given(model: Finetune | Distillation, name: str) -> bool:
    return name in model.model_fields_set
