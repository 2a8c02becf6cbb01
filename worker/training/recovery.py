"""Recover a pruned model by training: all trainings of a recipe, which a kill at any moment only delays."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from app.core.errors import DivergedTraining, NonfiniteAnswers
from worker.models.inputs import Inputs, move
from worker.pruning import MaskSet, Pruner
from worker.training.batchnorm import refresh_batchnorm
from worker.training.best import dump_best, load_best
from worker.training.checkpoint import Checkpoints, Tree
from worker.training.cycles import Phase
from worker.training.history import History, RunningMeans
from worker.training.loop import Loop, StepResult
from worker.training.soundness import check_finite, check_sparsity
from worker.training.teacher import Teacher
from worker.training.validation import Judge, Validation

# Learned scores and regrowth make a hundred rounds, and a validation after each could cost what a fifth of
# the training does; gradual schedules make twenty at most.
_MOST_ROUNDS_TO_VALIDATE = 25


@dataclass(frozen=True)
class Moment:
    """Where a recovery stands after a step: how many are done over all of its trainings, what it measured."""

    step: int
    result: StepResult
    metrics: dict[str, float]
    sparsity: float


class Watch(Protocol):
    """Who is told how a recovery goes on."""

    def resumed_at(self, step: int) -> None:
        """Hear that it goes on after so many steps, which an earlier attempt did."""
        ...

    @property
    def wants_stop(self) -> bool:
        """Whether a checkpoint is to be written now, in order to stop."""
        ...

    def checkpointed(self, step: int) -> None:
        """Hear that a checkpoint stands after so many steps; may raise what ends the training."""
        ...

    def after_step(self, moment: Moment) -> None:
        """Hear of a step, after its checkpoint where one was due."""
        ...


class Recovery:
    """Trains one model while it is pruned, through every phase that the recipe asks for.

    What it is at a moment is one tree (see Checkpoints), written when that is due and read when it starts.
    """

    def __init__(
        self,
        module: nn.Module,
        pruner: Pruner,
        phases: Sequence[Phase],
        *,
        checkpoints: Checkpoints,
        teacher: Teacher | None = None,
        validation: Validation | None = None,
    ) -> None:
        # A control starts with rounds that are not its own.
        self.history = History(noted=len(pruner.history))
        self.steps_done = 0
        self._module = module
        self._pruner = pruner
        self._phases = phases
        self._training = phases[0].training
        self._checkpoints = checkpoints
        self._teacher = teacher
        self._validation = validation
        self._number = 0
        self._means = RunningMeans(self._training.metric.name)
        settings = self._training.settings
        self._judge = Judge(
            self._training.metric, keeps_best=settings.keep_best, stopping=settings.early_stopping
        )
        self._rewind: dict[str, Tensor] | None = None
        self._checkpoint_step: int | None = None

    @property
    def total(self) -> int:
        """How many optimizer steps there are, over all trainings."""
        return sum(phase.length for phase in self._phases)

    @property
    def metrics(self) -> dict[str, float]:
        """What the training measured lately, by name."""
        return self._means.as_metrics()

    @property
    def best(self) -> Tree | None:
        """`value` and `step` of the evaluation whose weights are kept; None where none are."""
        return self._judge.best

    @property
    def rewind_state(self) -> dict[str, Tensor] | None:
        """The weights that are rewound to; None before they are reached, and without a rewind."""
        return self._rewind

    def run(self, watch: Watch) -> MaskSet:
        """Train to the end, from the newest checkpoint where there is one; returns the final masks.

        The module holds the final weights then: those that did best on the validation split, where they are
        kept. Raises DivergedTraining or SparsityLost.
        """
        try:
            loop = self._resume(watch) or self._start_phase()
            while True:
                self._train(loop, watch)
                self._end_phase()
                if self._number + 1 == len(self._phases):
                    # For what comes after this training: it is then not done again.
                    self._write(loop)
                    watch.checkpointed(self.steps_done)
                    return self._finish()
                self._number += 1
                loop = self._start_phase()
        except DivergedTraining as error:
            raise self._explain(error) from error

    @property
    def _phase(self) -> Phase:
        return self._phases[self._number]

    @property
    def _is_full(self) -> bool:
        """True once the whole target is pruned; what the model can do before that is not what was asked."""
        rounds = self._pruner.history
        return bool(rounds) and rounds[-1].round.fraction >= 1.0

    def _start_phase(self) -> Loop:
        phase = self._phase
        self._means = RunningMeans(self._means.name)
        if self._number == 0:
            self._keep_rewind_state(step=0)
        elif phase.round is not None:
            self._pruner.next_cycle()
            if self._rewind is not None:
                self._pruner.rewind(self._rewind)
        loop = self._make_loop(None)
        self._note_rounds()
        return loop

    def _make_loop(self, state: Tree | None) -> Loop:
        phase = self._phase
        return Loop(
            self._module,
            phase.training,
            pruner=self._pruner,
            teacher=self._teacher,
            state=state,
            first_step=phase.first_step,
        )

    def _train(self, loop: Loop, watch: Watch) -> None:
        while not loop.is_done and not self._judge.says_stop:
            result, pruned = loop.advance()
            self.steps_done += 1
            self._means.add(result.loss, result.metric)
            if pruned is not None:
                self._note_rounds()
            if self._number == 0:
                self._keep_rewind_state(step=loop.step)
            if self._is_evaluated_at(loop):
                self._evaluate()
            if self._checkpoints.is_due() or watch.wants_stop:
                self._write(loop)
                watch.checkpointed(self.steps_done)
            sparsity = self._pruner.history[-1].sparsity if self._pruner.history else 0.0
            watch.after_step(Moment(self.steps_done, result, self.metrics, sparsity))

    def _is_evaluated_at(self, loop: Loop) -> bool:
        every = self._training.settings.evaluate_every_epochs * self._training.plan.steps_per_epoch
        return loop.is_done or loop.step % every == 0

    def _evaluate(self) -> None:
        if self._validation is None:
            return
        value = self._validate(self._validation)
        if self._is_full:
            self._judge.hear(
                value,
                step=self.steps_done,
                make_state=lambda: dump_best(self._module, self._pruner.masks),
            )

    def _validate(self, validation: Validation) -> float:
        self._refresh_batchnorm()
        try:
            self._means.validation = validation.measure(self._module)
        except NonfiniteAnswers as error:
            raise DivergedTraining(f"{error.detail}, after step {self.steps_done}") from error
        return self._means.validation

    def _note_rounds(self) -> None:
        """Check and write down what the pruner has just done."""
        rounds = self._pruner.history
        if len(rounds) == self.history.noted:
            return
        check_sparsity(self._module, self._pruner.masks)
        is_cycle = self._pruner.cycles is not None
        if is_cycle or self._validation is None or len(self._pruner.rounds) > _MOST_ROUNDS_TO_VALIDATE:
            self._refresh_batchnorm()
            metrics = self._means.of_training()
        else:
            self._validate(self._validation)
            metrics = self.metrics
        rewound_to = (
            self._phase.first_step if is_cycle and self._number and self._rewind is not None else None
        )
        self.history.note(rounds, step=self.steps_done, metrics=metrics, rewound_to=rewound_to)

    def _end_phase(self) -> None:
        self._pruner.detach()
        check_sparsity(self._module, self._pruner.masks)
        check_finite(self._module, when="after the last step")
        if self._phase.round is not None:
            self.history.measure_last(self.metrics)
        elif len(self._phases) > 1:
            self.history.note_dense(step=self.steps_done, metrics=self.metrics)

    def _finish(self) -> MaskSet:
        masks = self._pruner.finish()
        self._note_rounds()
        self._refresh_batchnorm()
        self._module.eval()
        if self._judge.best is not None:
            masks = load_best(self._module, self._judge.best["state"], like=masks)
        check_sparsity(self._module, masks)
        return masks

    def _keep_rewind_state(self, *, step: int) -> None:
        if step == self._find_rewind_step():
            self._rewind = {name: value.clone() for name, value in self._module.state_dict().items()}

    def _find_rewind_step(self) -> int | None:
        cycles = self._pruner.cycles
        if cycles is None or cycles.rewind_fraction is None or len(self._phases) == 1:
            return None
        return max(phase.first_step for phase in self._phases)

    def _refresh_batchnorm(self) -> None:
        if self._training.settings.batchnorm_refresh:
            refresh_batchnorm(self._module, self._draw_refreshing_batches())

    def _draw_refreshing_batches(self) -> Iterator[Inputs]:
        training = self._training
        for indices in training.plan.draw_equal(training.settings.batchnorm_refresh):
            yield move(training.split.take(indices).inputs, training.device)

    def _write(self, loop: Loop) -> None:
        check_finite(self._module, when=f"after step {loop.step}")
        tree: Tree = {
            "phase": self._number,
            "steps_done": self.steps_done,
            "loop": loop.state_dict(),
            "module": self._module.state_dict(),
            "pruner": self._pruner.state_dict(),
            "history": self.history.state_dict(),
            "means": vars(self._means),
            "judge": self._judge.state_dict(),
            "rewind": self._rewind,
            "is_halved": self._training.is_halved,
        }
        self._checkpoints.write(tree)
        self._checkpoint_step = self.steps_done

    def _resume(self, watch: Watch) -> Loop | None:
        tree = self._checkpoints.read()
        if tree is None:
            return None
        self._number = tree["phase"]
        self.steps_done = self._checkpoint_step = tree["steps_done"]
        self._module.load_state_dict(tree["module"])
        self._pruner.load_state_dict(tree["pruner"])
        self.history.load_state_dict(tree["history"])
        self._means = RunningMeans(**tree["means"])
        self._judge.load_state_dict(tree["judge"])
        self._rewind = tree["rewind"]
        watch.resumed_at(self.steps_done)
        return self._make_loop(tree["loop"])

    def _explain(self, error: DivergedTraining) -> DivergedTraining:
        step, rate = self._checkpoint_step, self._training.settings.learning_rate
        good = "none was written yet" if step is None else f"the last good one is that of step {step}"
        return DivergedTraining(
            f"{error.detail}; of the checkpoints, {good}; "
            f"a learning rate below {rate:g} or a longer warm-up may help"
        )
