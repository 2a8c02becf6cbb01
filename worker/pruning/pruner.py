"""The pruner: what a training loop holds to prune a model step by step and to keep it pruned."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from worker.pruning.attachments import Attachments, Optimizer, find_gradient_scale
from worker.pruning.decision import Data, Decider
from worker.pruning.errors import NeedsTraining, NoCycle, NonfiniteScores, NoRegrowth
from worker.pruning.history import Reached, compare
from worker.pruning.holding import Holder
from worker.pruning.layers import Layer, check_weights, find_parameters
from worker.pruning.learning import ScoreLearner
from worker.pruning.masks import MaskSet
from worker.pruning.measured import Measured
from worker.pruning.plan import make_plan
from worker.pruning.protocols import Cycles, LearnsScores, Regrows
from worker.pruning.recipe import Recipe, read_recipe
from worker.pruning.regrowth import by_chance, by_gradient, draw_alike, regrow
from worker.pruning.rounds import Round, find_rounds, last_pruning_step
from worker.pruning.state import Progress, dump_state, read_damage, read_state
from worker.pruning.statistics.calibration import Loss


class Pruner:
    """Prunes one model by one recipe; its masks live outside of the model, which stays a plain module.

    Attach the optimizers, and zeros stay zero through their steps. With `steps`, the optimizer steps of the
    whole run (of one cycle, under a schedule of cycles), it prunes by itself when it is due: call `step()`
    after every optimizer step and before the gradients are cleared, and `finish()` at the end. Without,
    call `update(progress)` to prune as far as the schedule says.

    `data` yields batches (inputs, targets) for criteria that read gradients or activations; `loss(outputs,
    targets)` is a mean over the batch, cross-entropy by default. `seed` feeds what is random. `measured` is
    what is known about the model already.
    """

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe | Mapping[str, Any],  # Any: JSON, checked when read
        data: Data | None = None,
        loss: Loss | None = None,
        *,
        seed: int = 0,
        measured: Measured | None = None,
        steps: int | None = None,
    ) -> None:
        if steps is not None and steps < 1:
            raise ValueError(f"steps are those of the whole run, at least 1, found {steps}")
        self.model = model
        self.recipe = read_recipe(recipe)
        self.steps = steps
        self._plan = make_plan(model, self.recipe)
        self._measured = measured or Measured()
        self._decider = Decider(model, self._plan, self.recipe, data=data, loss=loss, measured=self._measured)
        self.seed = seed
        layers, criterion = self._plan.pruned_layers, self._plan.criterion
        self._parameters = {layer.name: find_parameters(model, layer) for layer in layers}
        self._holder = Holder(layers, self._parameters)
        self._learner = (
            ScoreLearner(criterion, layers, self._parameters) if isinstance(criterion, LearnsScores) else None
        )
        self._attachments = Attachments()
        self._rounds = self._plan_rounds()
        self._progress = Progress()

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Every parameter of the model, with `why_not` where this recipe does not prune it."""
        return self._plan.layers

    @property
    def masks(self) -> MaskSet:
        """The masks in force: one for every layer that can be pruned, all True before the first update."""
        return self._holder.all_masks()

    @property
    def history(self) -> tuple[Reached, ...]:
        """What every round, planned or by hand, has reached so far."""
        return self._progress.history

    @property
    def rounds(self) -> tuple[Round, ...]:
        """The rounds planned for `steps`; none without them, and none inside of a cycle."""
        return self._rounds

    @property
    def learns_scores(self) -> bool:
        """True when the criterion finds its scores in training: before that there is nothing to prune by."""
        return self._learner is not None

    @property
    def cycles(self) -> Cycles | None:
        """The schedule, where it is one of several trainings."""
        schedule = self._plan.schedule
        return schedule if isinstance(schedule, Cycles) else None

    def attach(self, optimizer: Optimizer) -> None:
        """Go along with an optimizer: after each of its steps pruned weights and their state are zero.

        With `steps`, the first call prunes what is due before the first step; so attach a resumed run's
        optimizer after `load_state_dict`.
        """
        self._attachments.add(optimizer, before=self._before_step, after=self._holder.hold)
        if self.steps is None:
            return
        if self._progress.steps_done == 0:
            self._decider.check_data()
        cycles = self.cycles
        if cycles is not None and not cycles.trains_dense_first and self._progress.cycles_done == 0:
            self.next_cycle()
        # Later, what is still due was put off by a skipped step, and waits for one.
        if self._progress.steps_done == 0:
            self._run_due_rounds()

    def detach(self, optimizer: Optimizer | None = None) -> None:
        """Leave an optimizer alone from now on; all of them by default."""
        for one in self._attachments if optimizer is None else (optimizer,):
            self._attachments.remove(one)

    @torch.no_grad()
    def step(self) -> Round | None:
        """Set pruned weights to zero, whoever moved them: after every step.

        With `steps`, count, and prune when the next round is due; returns the round just pruned. What regrows
        reads the gradients of this step, so call it before they are cleared.
        """
        # What attached optimizers remember is zero since their own step.
        self._holder.apply()
        if self.steps is None:
            return None
        self._progress.steps_done += 1
        try:
            return self._run_due_rounds()
        finally:
            self._attachments.forget_steps()

    @torch.no_grad()
    def update(self, progress: float = 1.0, *, may_revive: bool = False) -> MaskSet:
        """Prune by hand as far as the schedule says at a progress of 0..1 of it; return the masks in force.

        What is pruned stays pruned unless `may_revive`, or unless the criterion learns its scores. Raises
        PruningError, of the kind that says why.
        """
        self._prune(self._make_round(progress, self._plan.schedule.fraction(progress)), may_revive=may_revive)
        return self.masks

    @torch.no_grad()
    def regrow(self, progress: float) -> MaskSet:
        """Exchange by hand what the schedule drops and grows at a progress of 0..1 of the run.

        Counts stay the same; what comes starts at zero, in the optimizers' memory too. Raises NoRegrowth when
        the schedule does no such thing, NeedsTraining when the gradients that it reads are gone.
        """
        self._regrow(self._make_round(progress, self._progress.fraction))
        return self.masks

    @torch.no_grad()
    def draw_masks(self, *, seed: int) -> MaskSet:
        """Put random masks in force that prune as much of each layer: the control of the masks' worth.

        What they keep and the old ones pruned is zero until `rewind`.
        """
        self._holder.masks = draw_alike(self._plan, self.masks, seed=seed)
        self._apply()
        return self.masks

    @torch.no_grad()
    def next_cycle(self) -> Round:
        """Prune to the fraction of the schedule's next round, and count the steps from 0 again.

        Raises NoCycle when the last round is done, or when the schedule has no cycles.
        """
        cycles, done = self.cycles, self._progress.cycles_done
        if cycles is None:
            raise NoCycle(f"the schedule {self.recipe.schedule.name} has no cycles: call step() or update()")
        if done >= cycles.rounds:
            raise NoCycle(f"all {cycles.rounds} rounds are done: call finish()")
        self._progress.steps_done = 0
        number = done + 1
        self._prune(planned := Round(number, 0, number / cycles.rounds, cycles.fraction_after(number)))
        self._progress.cycles_done = number
        return planned

    @torch.no_grad()
    def finish(self) -> MaskSet:
        """End the training: prune to the full target if that has not come about yet, and detach.

        A training that stopped early leaves the masks short of it, and so does a criterion that itself says
        how many go.
        """
        try:
            if self._progress.fraction < 1.0:
                self._prune(self._make_round(1.0, 1.0))
        finally:
            self.detach()
        self._apply()
        return self.masks

    @torch.no_grad()
    def rewind(self, state: Mapping[str, Tensor]) -> None:
        """Load a model's state dict, buffers too, and apply the masks to it.

        What was learned (scores, latent weights, the state of attached optimizers) is forgotten.
        """
        self.model.load_state_dict(state)
        if self._learner is not None:
            self._learner.forget()
            self._learner.cover(self._holder.masks)
        for optimizer in self._attachments:
            optimizer.state.clear()
        self._apply()

    def sensitivity(self) -> dict[str, float]:
        """Return how much the loss rises with one layer alone as sparse as all are now together, by name.

        It is of the model before pruning, from what the allocation `sensitivity` measured; empty with others.
        """
        return self._measured.rises(self._plan.units, self.masks.sparsity)

    def state_dict(self) -> dict[str, Any]:  # Any: plain JSON and tensors, nested by name
        """Return everything that a run needs to go on to the bit, besides model and optimizer.

        Leaves are tensors (masks bit-packed, uint8) or plain JSON.
        """
        learned = self._learner.state_dict() if self._learner is not None else {}
        return {
            **dump_state(self.recipe, self._holder.masks, self._progress, self._measured),
            **learned,
            "seed": self.seed,
            "steps": self.steps,
        }

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # Any: what state_dict returned
        """Restore a state and apply its masks; raises MaskMismatch when it is of another recipe or model."""
        masks, progress = read_state(state, self.recipe, self._plan.pruned_layers, steps=self.steps)
        if self._learner is not None:
            self._learner.load_state_dict(state)
        self.seed = state["seed"]
        self._measured.damage.update(read_damage(state))
        self._holder.masks, self._progress = masks, progress
        self._apply()

    def _plan_rounds(self) -> tuple[Round, ...]:
        if self.steps is None or self.cycles is not None:
            return ()
        return find_rounds(self._plan.schedule, self.steps, learns_scores=self._learner is not None)

    def _run_due_rounds(self) -> Round | None:
        pruned, progress = None, self._progress
        while (
            progress.rounds_done < len(self._rounds)
            and self._rounds[progress.rounds_done].step <= progress.steps_done
        ):
            planned = self._rounds[progress.rounds_done]
            regrows = isinstance(self._plan.schedule, Regrows) and bool(self._holder.masks)
            try:
                (self._regrow if regrows else self._prune)(planned)
            except (NeedsTraining, NonfiniteScores) as error:
                # A GradScaler skips steps whose gradients overflow: what reads them waits for the next.
                is_skip = progress.steps_done > 0 and self._attachments.lack_a_step
                if not (is_skip and isinstance(error, NonfiniteScores if regrows else NeedsTraining)):
                    raise
                break
            pruned = planned
            progress.rounds_done += 1
        return pruned

    def _make_round(self, progress: float, fraction: float) -> Round:
        return Round(len(self.history) + 1, self._progress.steps_done, progress, fraction)

    @torch.no_grad()
    def _prune(self, planned: Round, *, may_revive: bool = False) -> None:
        masks = self._holder.masks
        if self._learner is None:
            kept = {} if may_revive else masks
            self._holder.masks = self._decider.decide(planned.fraction, kept, seed=self.seed)
        else:
            self._holder.masks = self._decider.decide_by_learned(
                self._learner, planned.fraction, masks, seed=self.seed
            )
        self._apply()
        self._record(planned, masks)

    @torch.no_grad()
    def _regrow(self, planned: Round) -> None:
        plan, masks = self._plan, self._holder.masks
        if not isinstance(plan.schedule, Regrows):
            raise NoRegrowth(f"the schedule {self.recipe.schedule.name} does not regrow: set and rigl do")
        growth = (
            by_gradient(plan.pattern, self._parameters)
            if plan.schedule.grows_by == "gradient"
            else by_chance(self.seed, planned.number)
        )
        self._holder.masks = regrow(plan, self.masks, growth, share=plan.schedule.share(planned.progress))
        self._apply()
        self._record(planned, masks)

    def _record(self, planned: Round, before: Mapping[str, Tensor]) -> None:
        self._progress.add(compare(planned, self._plan.pruned_layers, before, self._holder.masks))

    def _before_step(self, optimizer: Optimizer) -> None:
        layers = self._holder.layers_of(optimizer)
        if self._learner is not None:
            scale = find_gradient_scale(optimizer)
            self._learner.learn(layers, self._holder.masks, pressure=self._due_fraction(), scale=scale)
        schedule = self._plan.schedule
        # What grows by them reads them after the step.
        if not (isinstance(schedule, Regrows) and schedule.grows_by == "gradient"):
            self._holder.zero_gradients(layers)

    def _apply(self) -> None:
        check_weights(self.model, self._plan.pruned_layers)
        self._holder.apply(self._attachments)

    def _due_fraction(self) -> float:
        if self.steps is None or self.cycles is not None:
            return self._progress.fraction
        last_step = last_pruning_step(self.steps, learns_scores=True)
        return self._plan.schedule.fraction(min(1.0, self._progress.steps_done / last_step))
