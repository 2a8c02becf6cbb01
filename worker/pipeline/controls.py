"""Train the controls of a lottery ticket: is it its mask that counts, and the weights that it started from?

Frankle and Carbin 2019, arXiv:1803.03635, section 2: a mask drawn by chance on the ticket's first weights,
and the ticket's mask on weights drawn anew. Each is one training of a fixed mask, measured like the ticket.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from worker.measure.records import record_split
from worker.models.registry import Network
from worker.pipeline.folder import StageFolder
from worker.pipeline.job import Job
from worker.pipeline.pruning import make_pruner
from worker.pruning import MaskSet, Pruner
from worker.pruning.protocols import Control
from worker.training.best import pack_masks
from worker.training.checkpoint import Tree
from worker.training.cycles import Phase
from worker.training.loop import Training
from worker.training.randomness import derive_seed
from worker.training.recovery import Recovery, Watch
from worker.training.teacher import Teacher
from worker.training.validation import Validation


@dataclass(frozen=True)
class Ticket:
    """The finished trainings that the controls are compared with, and what they were made of.

    `rewind_state` are the weights that the last of them started from.
    """

    training: Training
    phases: Sequence[Phase]
    teacher: Teacher | None
    validation: Validation | None
    masks: MaskSet
    pruner_state: Tree
    rewind_state: Mapping[str, Tensor] | None


def plan_control(control: Control, training: Training, phases: Sequence[Phase]) -> Phase:
    """Return the training of a control: as long as the ticket's last, or whole where it starts anew."""
    return Phase(training, phases[-1].first_step if control == "random_mask" else 0)


def train_control(
    job: Job,
    folder: StageFolder,
    control: Control,
    *,
    ticket: Ticket,
    watch: Watch,
) -> str:
    """Train a control, going on where an earlier attempt stopped; returns the name of its records' file."""
    network, pruner = start_control(job, control, ticket)
    checkpoints = folder.checkpoints(f"control-{control}", interval_s=job.spec.resources.checkpoint_s)
    recovery = Recovery(
        network.module,
        pruner,
        (plan_control(control, ticket.training, ticket.phases),),
        checkpoints=checkpoints,
        teacher=ticket.teacher,
        validation=ticket.validation,
    )
    recovery.run(watch)
    return _measure(job, folder, control, network.module)


def start_control(job: Job, control: Control, ticket: Ticket) -> tuple[Network, Pruner]:
    """Return a control as it stands before its first step: its weights, and a pruner that holds its masks.

    A random mask is of the same pattern and keeps as many weights of every layer, drawn by chance.
    """
    network = _build_fresh(job) if control == "random_reinit" else job.read_start().network
    is_drawn = control == "random_mask"
    start = ticket.rewind_state
    if is_drawn and start is None:
        start = {name: value.clone() for name, value in network.module.state_dict().items()}
    pruner = make_pruner(job, network, steps=ticket.training.steps)
    pruner.load_state_dict({**ticket.pruner_state, "masks": pack_masks(ticket.masks)})
    if is_drawn and start is not None:
        pruner.draw_masks(seed=job.spec.seed)
        # The ticket's mask has set to zero what this one may keep.
        pruner.rewind(start)
    return network, pruner


def _build_fresh(job: Job) -> Network:
    loaded = job.read_start()
    torch.manual_seed(derive_seed(job.spec.seed, "reinitialisation", 0))
    fresh = loaded.build()
    job.cut(fresh)
    fresh.module.to(job.device)
    return fresh


def _measure(job: Job, folder: StageFolder, control: Control, module: nn.Module) -> str:
    # A fine-tune has a dataset, and that a test split.
    assert job.test_split is not None
    assert job.task is not None
    records = record_split(
        module,
        job.test_split,
        job.task.objective,
        batch_size=job.evaluation.batch_size,
        device=job.device,
    )
    name = f"control-{control}.safetensors"
    folder.write_tensors(name, records)
    return name
