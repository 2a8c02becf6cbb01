"""The training loop: optimizer step after optimizer step, each one a function of the state before it."""

import math
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor, nn

from app.core.errors import DivergedTraining
from app.core.finetune import Finetune
from worker.datasets.splits import Batch, Split
from worker.models.inputs import Inputs, compute_logits, move
from worker.objectives.registry import Objective
from worker.pruning.clipping import clip_gradients
from worker.pruning.errors import PruningError
from worker.training.batches import BatchPlan
from worker.training.checkpoint import Tree
from worker.training.hidden_states import HiddenStates, compute_distance
from worker.training.metric import Metric
from worker.training.objective import compute_loss
from worker.training.optimizers import dump_state, load_state, make_optimizer, set_rate
from worker.training.precision import autocast
from worker.training.randomness import seed_step
from worker.training.schedule import compute_rate
from worker.training.soundness import check_finite
from worker.training.teacher import Answer, Teacher


@dataclass(frozen=True)
class StepResult:
    """What a step (from 0) measured on its own samples, before its update."""

    step: int
    loss: float
    metric: float
    learning_rate: float


class PrunesWhileTraining(Protocol):
    """What goes along with the optimizer: it prunes when that is due, and keeps pruned weights at zero."""

    @property
    def masks(self) -> Mapping[str, Tensor]:
        """The masks in force, bool of the shapes of the parameters that they are named after."""
        ...

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """Take note of the optimizer before the first step."""
        ...

    def step(self) -> object:
        """Follow an optimizer's step, while its gradients are there; returns something when it pruned."""
        ...


@dataclass(frozen=True)
class Training:
    """Everything that decides a training's outcome, besides the weights and what is pruned.

    `is_halved` computes the same steps in batches of half the size, since memory ran out.
    """

    settings: Finetune
    split: Split
    objective: Objective
    metric: Metric
    seed: int
    device: torch.device
    is_halved: bool = False

    @cached_property
    def plan(self) -> BatchPlan:
        settings = self.settings
        plan = BatchPlan.for_split(
            len(self.split),
            settings.batch_size,
            accumulate=settings.accumulate,
            seed=self.seed,
            lengths=self.split.lengths,
        )
        return plan.halved() if self.is_halved else plan

    @property
    def steps(self) -> int:
        """How many optimizer steps there are."""
        if self.settings.max_steps is not None:
            return self.settings.max_steps
        assert self.settings.epochs is not None  # the spec has one of the two when it is resolved
        return self.settings.epochs * self.plan.steps_per_epoch


class Loop:
    """Trains a module in place, from `step` to the training's end; what it needs to go on is its state."""

    def __init__(
        self,
        module: nn.Module,
        training: Training,
        *,
        pruner: PrunesWhileTraining,
        teacher: Teacher | None,
        state: Tree | None = None,
        first_step: int = 0,
    ) -> None:
        self.step = first_step
        self._module = module
        self._training = training
        self._pruner = pruner
        self._teacher = teacher
        self._optimizer = make_optimizer(module, training.settings)
        if state is not None:
            self.step = state["step"]
            load_state(self._optimizer, state["optimizer"])
        pruner.attach(self._optimizer)

    @property
    def is_done(self) -> bool:
        return self.step >= self._training.steps

    def state_dict(self) -> Tree:
        """Return what decides the steps to come, besides the module, what is pruned and the training."""
        return {"step": self.step, "optimizer": dump_state(self._optimizer)}

    def advance(self) -> tuple[StepResult, object]:
        """Take one step; returns what it measured, and what the pruner did after it.

        Raises DivergedTraining, with the weights as they were before, when the loss is not finite.
        """
        training, step = self._training, self.step
        generator = seed_step(training.seed, step)
        rate = compute_rate(step, training.steps, training.settings)
        set_rate(self._optimizer, rate)
        self._optimizer.zero_grad(set_to_none=True)
        # Pruning and evaluation leave the model in evaluation mode.
        self._module.train()
        loss = metric = 0.0
        batches = [part for batch in training.plan.batches(step) for part in training.split.cut(batch)]
        for indices in batches:
            variation = generator if training.settings.augment else None
            batch = training.split.take(indices, generator=variation)
            share = len(indices) / training.plan.step_size
            batch_loss, batch_metric = self._differentiate(indices, batch, share=share)
            loss, metric = loss + share * batch_loss, metric + share * batch_metric
        if not math.isfinite(loss):
            raise DivergedTraining(
                f"the loss became {loss} at step {step + 1} of {training.steps}, "
                f"at a learning rate of {rate:g}"
            )
        self._update()
        self.step += 1
        return StepResult(step, loss, metric, rate), self._prune()

    def _differentiate(self, indices: Tensor, batch: Batch, *, share: float) -> tuple[float, float]:
        """Add a batch's gradients to those that are there; returns its loss and its metric."""
        training = self._training
        inputs, targets = move(batch.inputs, training.device), batch.targets.to(training.device)
        dense = self._teacher.answer(indices, inputs) if self._teacher else None
        hidden = HiddenStates(self._module) if dense and dense.hidden else None
        with autocast(training.settings, training.device), hidden or nullcontext():
            logits = compute_logits(self._module, inputs)
        loss = compute_loss(
            logits.float(),
            targets,
            objective=training.objective,
            teacher_logits=dense.logits if dense else None,
            distillation=training.settings.distillation,
        )
        if dense and hidden:
            loss = loss + self._compute_hidden_loss(hidden, dense, inputs)
        torch.autograd.backward(loss * share)
        records = training.objective.record(logits.detach().float(), targets)
        return float(loss.detach()), training.metric.measure(records)

    def _compute_hidden_loss(self, hidden: HiddenStates, dense: Answer, inputs: Inputs) -> Tensor:
        distillation = self._training.settings.distillation
        assert distillation is not None  # there is a dense answer
        assert distillation.hidden_states is not None
        token_mask = inputs.get("attention_mask") if not isinstance(inputs, Tensor) else None
        return distillation.hidden_states * compute_distance(hidden.outputs, dense.hidden, token_mask)

    def _prune(self) -> object:
        try:
            return self._pruner.step()
        except PruningError:
            # What cannot be scored may be weights that the update broke; then that is what is to be said.
            check_finite(self._module, when=f"after step {self.step} of {self._training.steps}")
            raise

    def _update(self) -> None:
        limit = self._training.settings.clip_norm
        if limit is not None:
            clip_gradients(self._module, self._pruner.masks, limit=limit)
        self._optimizer.step()
