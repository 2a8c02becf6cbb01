"""How a job trains its model: the part `finetune` of the job spec."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from app.core.strict import Fraction, NotNegative, Positive, Strict


class Distillation(Strict):
    """Learn from the dense model's logits (Hinton et al. 2015): weight `alpha`, softened by `temperature`.

    `hidden_states` weighs the distance between what the two models' blocks put out (Jiao et al. 2020).
    """

    alpha: Fraction = 0.9
    temperature: Positive = 4.0
    hidden_states: Positive | None = None


class EarlyStopping(Strict):
    """Stop after `patience` evaluations on the validation split without a gain of more than `min_delta`."""

    patience: Annotated[int, Field(ge=1, le=10_000)] = 3
    metric: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    min_delta: NotNegative = 0.0


# Null says "none" there, and "as the task has it" everywhere else.
_NULL_MEANS_NONE = frozenset({"epochs", "max_steps", "clip_norm", "distillation", "early_stopping"})


class Finetune(Strict):
    """How the model is trained; what is left out follows from the dataset's task (finetune_defaults).

    An optimizer's step sees `batch_size` times `accumulate` samples. The numbers here are those of images.
    """

    epochs: Annotated[int, Field(ge=1, le=10_000)] | None = None
    max_steps: Annotated[int, Field(ge=1, le=100_000_000)] | None = None
    batch_size: Annotated[int, Field(ge=1, le=65_536)] = 128
    accumulate: Annotated[int, Field(ge=1, le=65_536)] = 1
    optimizer: Literal["sgd", "adamw"] = "sgd"
    momentum: Annotated[float, Field(ge=0.0, lt=1.0, allow_inf_nan=False)] = 0.9
    nesterov: bool = True
    learning_rate: Positive = 0.02
    weight_decay: NotNegative = 1e-4
    warmup_fraction: Fraction = 0.05
    decay: Literal["cosine", "linear", "constant"] = "cosine"
    clip_norm: Positive | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    augment: bool = False
    batchnorm_refresh: Annotated[int, Field(ge=0, le=100_000)] = 0
    distillation: Distillation | None = None
    evaluate_every_epochs: Annotated[int, Field(ge=1, le=10_000)] = 1
    early_stopping: EarlyStopping | None = None
    keep_best: bool = True
    # Of these steps each size is trained for that a structure's target of accuracy_drop tries.
    probe_fraction: Fraction = 0.1

    @model_validator(mode="before")
    @classmethod
    def _take_null_as_not_given(cls, given: object) -> object:
        if not isinstance(given, dict):
            return given
        return {key: value for key, value in given.items() if value is not None or key in _NULL_MEANS_NONE}

    @model_validator(mode="after")
    def _fits_together(self) -> "Finetune":
        if self.epochs is not None and self.max_steps is not None:
            raise ValueError("give either epochs or max_steps, or neither")
        if self.optimizer == "sgd" and self.nesterov and self.momentum == 0.0:
            raise ValueError("nesterov needs a momentum over 0: give nesterov false")
        return self
