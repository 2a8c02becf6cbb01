"""Small recoveries: a narrow network, three classes that differ in brightness, and a kill at any step."""

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from app.core.finetune import Finetune
from worker.datasets.images import ImageSplit
from worker.models.registry import build
from worker.objectives.classification import Classification
from worker.pruning import MaskSet, Pruner
from worker.training.checkpoint import Checkpoints
from worker.training.cycles import plan_phases
from worker.training.loop import Training
from worker.training.metric import Metric
from worker.training.recovery import Moment, Recovery
from worker.training.teacher import Teacher
from worker.training.validation import Validation

ARCHITECTURE = {"name": "resnet8x8", "params": {"width": 4, "classes": 3}}
CPU = torch.device("cpu")
ACCURACY = Metric("accuracy", 3)
GRADUAL = {"target": {"value": 0.5}, "schedule": {"name": "cubic"}}
ONE_SHOT = {"target": {"value": 0.5}}


class Killed(Exception):
    """What a kill is in one process."""


class Witness:
    """Remembers what it is told, and dies after so many steps if told to."""

    def __init__(self, kill_after: int | None = None) -> None:
        self.moments: list[Moment] = []
        self.resumed: int | None = None
        self._kill_after = kill_after

    def resumed_at(self, step: int) -> None:
        self.resumed = step

    wants_stop = False

    def checkpointed(self, step: int) -> None:
        pass

    def after_step(self, moment: Moment) -> None:
        self.moments.append(moment)
        if self._kill_after is not None and moment.step >= self._kill_after:
            raise Killed


@dataclass
class Outcome:
    module: nn.Module
    masks: MaskSet
    recovery: Recovery
    moments: list[Moment]
    resumed: int | None

    def tensors(self) -> dict[str, torch.Tensor]:
        """Everything that comes out, by name."""
        return {**self.module.state_dict(), **{f"mask of {name}": mask for name, mask in self.masks.items()}}


def make_model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return build(ARCHITECTURE).module


def make_split(name: str = "train", *, samples: int = 96, seed: int = 0) -> ImageSplit:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(samples) % 3
    images = torch.rand(samples, 1, 8, 8, generator=generator) + labels.reshape(-1, 1, 1, 1)
    return ImageSplit(name, images, labels, mean=torch.ones(1), std=torch.ones(1))


VALIDATION = Validation(make_split("validation", seed=9), Classification(), ACCURACY, 32, CPU)


def make_settings(**changes: Any) -> Finetune:
    given = {"max_steps": 12, "batch_size": 32, "learning_rate": 0.05, **changes}
    return Finetune(**given)


def make_training(
    settings: Finetune, *, split: ImageSplit | None = None, is_halved: bool = False
) -> Training:
    return Training(settings, split or make_split(), Classification(), ACCURACY, 0, CPU, is_halved)


def recover(
    folder: Path | None = None,
    *,
    recipe: dict[str, Any] = GRADUAL,
    kill_after: int | None = None,
    interval_s: float = 0.0,
    validates: bool = False,
    module: nn.Module | None = None,
    split: ImageSplit | None = None,
    is_halved: bool = False,
    **settings: Any,
) -> Outcome:
    """Recover from the newest checkpoint in the folder, or from the start; die after some steps if told."""
    module = module or make_model()
    training = make_training(make_settings(**settings), split=split, is_halved=is_halved)
    pruner = Pruner(module, recipe, seed=3, steps=training.steps)
    teacher = Teacher(
        make_model(1),
        training.split,
        settings=training.settings,
        device=CPU,
        blocks=training.plan.first_epoch(),
    )
    watch = Witness(kill_after)
    with TemporaryDirectory() as fresh:
        recovery = Recovery(
            module,
            pruner,
            plan_phases(training, pruner.cycles),
            checkpoints=Checkpoints(
                folder or Path(fresh), {}, interval_s=interval_s if folder is not None else 1e9
            ),
            teacher=teacher if training.settings.distillation else None,
            validation=VALIDATION if validates else None,
        )
        masks = recovery.run(watch)
    return Outcome(module, masks, recovery, watch.moments, watch.resumed)
