"""Train a model that is being pruned: the loop, the same steps and bits on every run with the same seed."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from app.core.errors import DivergedTraining
from app.core.spec import Finetune
from worker.datasets.splits import Split
from worker.models.inputs import Inputs, compute_logits, move
from worker.objectives.registry import Objective
from worker.training.batches import BatchPlan
from worker.training.objective import Teacher, compute_loss
from worker.training.optimizers import compute_rate, make_optimizer, set_rate


@dataclass(frozen=True)
class StepResult:
    """What one step measured on its own batch, before its update."""

    step: int
    loss: float
    accuracy: float


@dataclass(frozen=True)
class _Batch:
    """Which samples of the split, [b]; their inputs and targets on the device."""

    indices: torch.Tensor
    inputs: Inputs
    targets: torch.Tensor


class Companion(Protocol):
    """What goes along with a fine-tune: it prunes, and it watches."""

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """Take note of the optimizer before the first step."""
        ...

    def before_step(self, step: int) -> None:
        """Prune further where that is due."""
        ...

    def after_step(self, result: StepResult) -> None:
        """Set pruned weights back to zero after the optimizer moved them."""
        ...


@dataclass(frozen=True)
class Training:
    """Everything that decides a fine-tune's outcome."""

    settings: Finetune
    split: Split
    objective: Objective
    seed: int
    device: torch.device

    @property
    def plan(self) -> BatchPlan:
        return BatchPlan.for_split(len(self.split), self.settings.batch_size)

    @property
    def steps(self) -> int:
        """How many optimizer steps there are."""
        if self.settings.max_steps is not None:
            return self.settings.max_steps
        assert self.settings.epochs is not None  # the spec has one of the two
        return self.settings.epochs * self.plan.batches_per_epoch


def finetune(module: nn.Module, training: Training, *, companion: Companion, dense: nn.Module | None) -> None:
    """Train `module` in place on the training's device; `dense` is the teacher where the settings distil.

    Raises DivergedTraining when a loss or a weight is not finite.
    """
    optimizer = make_optimizer(module, training.settings)
    companion.attach(optimizer)
    teacher = _make_teacher(training, dense)
    for step, batch in enumerate(_draw_batches(training)):
        companion.before_step(step)
        # Pruning may have looked at the model in evaluation mode.
        module.train()
        set_rate(optimizer, compute_rate(step, training.steps, training.settings))
        loss, accuracy = _measure(module, batch, teacher=teacher, training=training)
        result = StepResult(step, float(loss.detach()), accuracy)
        if not math.isfinite(result.loss):
            raise _diverged(f"the loss became {result.loss} at step {step + 1} of {training.steps}", training)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimizer.step()
        companion.after_step(result)
    module.eval()
    # The last update has no loss after it that would show it.
    broken = [name for name, value in module.state_dict().items() if not torch.isfinite(value).all()]
    if broken:
        raise _diverged(f"{broken[0]} is not finite after the last step", training)


def _measure(
    module: nn.Module, batch: _Batch, *, teacher: Teacher | None, training: Training
) -> tuple[torch.Tensor, float]:
    logits = compute_logits(module, batch.inputs)
    loss = compute_loss(
        logits,
        batch.targets,
        objective=training.objective,
        teacher_logits=teacher.answer(batch.indices, batch.inputs) if teacher else None,
        distillation=training.settings.distillation,
    )
    return loss, float((logits.detach().argmax(1) == batch.targets).float().mean())


def _make_teacher(training: Training, dense: nn.Module | None) -> Teacher | None:
    if training.settings.distillation is None or dense is None:
        return None
    return Teacher(dense, training.split, remembers=not training.settings.augment)


def _draw_batches(training: Training) -> Iterator[_Batch]:
    generator = torch.Generator().manual_seed(training.seed)
    order = training.plan.indices(generator)
    for _ in range(training.steps):
        indices = next(order)
        variation = generator if training.settings.augment else None
        batch = training.split.take(indices, generator=variation)
        yield _Batch(indices, move(batch.inputs, training.device), batch.targets.to(training.device))


def _diverged(what: str, training: Training) -> DivergedTraining:
    rate = training.settings.learning_rate
    return DivergedTraining(f"{what}; a learning rate below {rate:g} or a longer warm-up may help")
