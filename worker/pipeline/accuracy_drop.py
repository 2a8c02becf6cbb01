"""Judge sizes of a cut model by their accuracy, each after a short training where one follows.

What was judged is written to a checkpoint, by the weights' digest: a size is trained and judged once, by
whichever attempt at the job. So is a training that is under way, as often as the spec asks for.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property, partial
from types import MappingProxyType

import torch
from torch import Tensor, nn

from app.core.errors import DatasetMismatch, DivergedTraining, NonfiniteAnswers, SecateurError
from worker.measure.metrics import METRICS, measure
from worker.measure.records import record_split
from worker.numerics import is_out_of_memory
from worker.pipeline.folder import StageFolder
from worker.pipeline.job import Job
from worker.pipeline.predictions import take_answers
from worker.pipeline.progress import ProgressReporter
from worker.pipeline.training import make_teacher, make_training
from worker.pruning.removal.shrinking import ACCURACY_PROBES
from worker.stopping import Stopped, stops_gracefully
from worker.training.checkpoint import Tree
from worker.training.loop import Loop, Training
from worker.training.teacher import Teacher

_ACCURACY = "accuracy"
_CHECKPOINTS = "probes"


class AccuracyDrop:
    """Measures how far the accuracy of a cut model falls below that of the `whole` one, 0..1.

    `settle` is what is done with a cut model before it is judged, where no training follows. One that
    diverges or answers NaN costs all accuracy, which `warnings` say: a smaller cut may not. Raises
    DatasetMismatch without a split to judge on, NonfiniteAnswers of the whole model.
    """

    def __init__(
        self,
        job: Job,
        folder: StageFolder,
        progress: ProgressReporter,
        whole: nn.Module,
        settle: Callable[[nn.Module], object],
    ) -> None:
        self._job = job
        self._progress = progress
        self._settle = settle
        interval_s = job.spec.resources.checkpoint_s
        self._checkpoints = folder.checkpoints(_CHECKPOINTS, interval_s=interval_s)
        written = self._checkpoints.read() or {"accuracies": {}, "warnings": [], "begun": None}
        self._known: dict[str, float] = written["accuracies"]
        self.warnings: list[str] = written["warnings"]
        self._begun: Tree | None = written["begun"]
        self._whole = _digest(whole)
        self._dense = self._judge_once(whole)

    @property
    def steps(self) -> int:
        """How many optimizer steps each size is trained for before it is judged."""
        settings = self._job.spec.finetune
        if settings is None or settings.probe_fraction == 0.0:
            return 0
        return max(1, round(settings.probe_fraction * self._full_training.steps))

    def __call__(self, module: nn.Module) -> float:
        return self._dense - self._judge_once(module)

    def _judge_once(self, module: nn.Module) -> float:
        """Return the accuracy of a model, which comes back as it was."""
        digest = _digest(module)
        if digest not in self._known:
            try:
                with _state_kept(module) as restore:
                    if digest != self._whole:
                        self._recover(module, digest, restore)
                    self._known[digest] = self._measure(module)
            except (DivergedTraining, NonfiniteAnswers) as error:
                if digest == self._whole:
                    raise
                self._known[digest] = 0.0
                self.warnings.append(_describe_lost(module, error))
            # Without a training each size that was judged counts as a step.
            self._write(begun=None, steps=len(self._known) * max(1, self.steps))
        return self._known[digest]

    def _recover(self, module: nn.Module, digest: str, restore: Callable[[], object]) -> None:
        if self.steps == 0:
            self._settle(module)
            return
        begun = self._begun if self._begun is not None and self._begun["digest"] == digest else None
        self._begun = None
        is_halved = self._job.given.is_halved or bool(begun and begun["is_halved"])
        try:
            self._train(module, digest, begun, is_halved=is_halved)
            return
        except (MemoryError, RuntimeError) as error:
            if is_halved or self._full_training.settings.batch_size == 1 or not is_out_of_memory(error):
                raise
        # Behind the handler: the error's trace would keep the tensors of the attempt alive.
        restore()
        self._train(module, digest, None, is_halved=True)

    def _train(self, module: nn.Module, digest: str, begun: Tree | None, *, is_halved: bool) -> None:
        """Train a cut model for a moment, from its start or from where an earlier attempt stopped."""
        job, settings = self._job, self._full_training.settings
        assert job.task is not None  # it was measured with one
        short = settings.model_copy(update={"epochs": None, "max_steps": self.steps})
        training = make_training(job, short, job.task, is_halved=is_halved)
        # The probes that may follow are all counted: fewer are a search that ends early.
        rounds = job.spec.structure.rounds if job.spec.structure else 1
        total, before = (ACCURACY_PROBES * rounds + 1) * self.steps, len(self._known) * self.steps
        if begun is not None:
            module.load_state_dict(begun["module"])
            self._progress.resume(min(before + begun["loop"]["step"], total), total)
        with (
            torch.enable_grad(),
            torch.random.fork_rng(_list_cuda(job.device)),
            stops_gracefully() as stop,
        ):
            state = begun["loop"] if begun else None
            loop = Loop(module, training, pruner=_PrunesNothing(), teacher=self._teacher, state=state)
            while not loop.is_done:
                loop.advance()
                if self._checkpoints.is_due() or stop.is_made:
                    training_state = {"loop": loop.state_dict(), "module": module.state_dict()}
                    self._write(
                        begun={"digest": digest, "is_halved": is_halved, **training_state},
                        steps=before + loop.step,
                    )
                    if stop.is_made:
                        raise Stopped
                self._progress.report(min(before + loop.step, total), total)

    def _write(self, *, begun: Tree | None, steps: int) -> None:
        self._checkpoints.write({"accuracies": self._known, "warnings": self.warnings, "begun": begun})
        self._progress.tell_checkpoint(steps)

    @cached_property
    def _full_training(self) -> Training:
        job = self._job
        assert job.spec.finetune is not None
        assert job.task is not None
        return make_training(job, job.spec.finetune, job.task, is_halved=job.given.is_halved)

    @cached_property
    def _teacher(self) -> Teacher | None:
        return make_teacher(self._job, self._full_training)

    def _measure(self, module: nn.Module) -> float:
        job = self._job
        split = job.splits.get("validation") or job.test_split
        if split is None or job.task is None or _ACCURACY not in job.task.metrics:
            named = job.task.name if job.task else "no task"
            raise DatasetMismatch(f"a target of accuracy_drop needs a dataset with accuracy, found {named}")
        records = record_split(
            module,
            split,
            job.task.objective,
            batch_size=job.evaluation.batch_size,
            device=job.device,
        )
        return measure(METRICS[_ACCURACY], take_answers(job, records))


class _PrunesNothing:
    """Goes along with an optimizer and leaves the weights alone: only what was cut out is gone."""

    masks: Mapping[str, Tensor] = MappingProxyType({})

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """Take no note of it."""

    def step(self) -> None:
        """Do nothing."""


@contextmanager
def _state_kept(module: nn.Module) -> Iterator[Callable[[], object]]:
    """Train a module as you like inside: afterwards, or when told so by what is yielded, it is as it was."""
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    try:
        yield partial(module.load_state_dict, before)
    finally:
        module.load_state_dict(before)
        module.zero_grad(set_to_none=True)
        module.eval()


def _describe_lost(module: nn.Module, error: SecateurError) -> str:
    parameters = sum(parameter.numel() for parameter in module.parameters())
    return f"a cut to {parameters:,} parameters that was tried counts as one of accuracy 0: {error.detail}"


def _digest(module: nn.Module) -> str:
    """Digest what decides a model's answers: the tensors, their shapes and names."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in module.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        raw = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(raw.view(torch.uint8).numpy())
    return digest.hexdigest()


def _list_cuda(device: torch.device) -> list[torch.device]:
    return [device] if device.type == "cuda" else []
