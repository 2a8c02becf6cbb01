"""One job in its work folder: what was asked, the uploads, and the stages' folders."""

import hashlib
import json
from collections.abc import Mapping
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

import numpy
import safetensors
import torch
from torch import Tensor, nn

from app.core.errors import Unavailable
from app.core.spec import Evaluation
from app.core.states import Stage
from worker.datasets.registry import Splits, read_splits
from worker.datasets.splits import Split
from worker.export.reload import FRESH
from worker.forks.client import Starter
from worker.formats.cut import CUT, describe_cut, read_counts, read_depths
from worker.formats.registry import LoadedModel, read_model
from worker.formats.safetensors_file import read_tensors
from worker.measure.size import digest_file
from worker.models.registry import Network
from worker.objectives.registry import Task, find_task
from worker.pipeline.folder import StageFolder
from worker.protocol import DatasetInput, ModelInput, RunnerInput
from worker.pruning.removal.depth import join_depths
from worker.pruning.removal.surgery import Removal, load_removal, remove
from worker.pruning.removal.tracer import Knob
from worker.training.precision import computes_in_bfloat16
from worker.version import code_version

STATE_NAME = "state.safetensors"
MASKS_NAME = "masks.safetensors"
BATCHNORM_NAME = "batchnorm.safetensors"
REMOVAL_NAME = "removal.json"


class Job:
    """A job's inputs, read when first asked for and kept; each model that it hands out is a fresh one.

    `clean` starts the process that its exported files are read in.
    """

    def __init__(self, work: Path, given: RunnerInput, *, clean: Starter = FRESH) -> None:
        self.work = work
        self.clean = clean
        self.given = given
        self.spec = given.spec
        self.device = torch.device(given.device)
        self._outputs: int | None = None

    @cached_property
    def digest(self) -> str:
        """Digest of everything that decides the artifact's bytes: what was asked, and what computes it."""
        dataset = self.given.dataset
        asked = {
            "spec": self.spec.model_dump(mode="json"),
            "model": self.given.model.model_dump(mode="json", exclude={"files"}),
            "dataset": dataset and dataset.model_dump(mode="json", exclude={"files"}),
            "threads": self.given.threads,
            "device": self.given.device,
            "environment": [*describe_versions().items(), describe_device(self.given.device)],
        }
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()

    def folder(self, stage: Stage) -> StageFolder:
        """Return a stage's folder."""
        return StageFolder(self.work, stage)

    @property
    def evaluation(self) -> Evaluation:
        """How the model is judged: as asked for, half as many samples at a time once memory ran out."""
        asked = self.spec.evaluation
        halved = {"batch_size": max(1, asked.batch_size // 2)} if self.given.is_halved else {}
        return asked.model_copy(update=halved)

    @property
    def final_folder(self) -> StageFolder:
        """The folder of the stage that made the final weights: fine-tuned ones, where that was asked for."""
        return self.folder(Stage.FINETUNE if self.spec.finetune else Stage.PRUNE)

    @cached_property
    def splits(self) -> Splits:
        """The dataset's splits by name; none without a dataset."""
        dataset = self.given.dataset
        return read_splits(dataset, self.read_dense().network) if dataset else {}

    @property
    def test_split(self) -> Split | None:
        return self.splits.get("test")

    @cached_property
    def task(self) -> Task | None:
        """What the dataset is for; None without a dataset."""
        return find_task(self.given.dataset.task) if self.given.dataset else None

    def read_dense(self) -> LoadedModel:
        """Read the uploaded model, onto the job's device."""
        loaded = read_model(self.given.model)
        loaded.network.module.to(self.device)
        self._outputs = loaded.network.outputs
        return loaded

    @property
    def outputs(self) -> int:
        """How many classes, or other numbers, the model answers; kept from when it was read."""
        return self.read_dense().network.outputs if self._outputs is None else self._outputs

    def read_start(self) -> LoadedModel:
        """Read the model that is pruned and trained: the uploaded one, cut where its structure was.

        What BatchNorm normalises by is as it was measured on the cut model.
        """
        loaded = self.read_dense()
        if self.removal is not None:
            self.cut(loaded.network)
            statistics = self.folder(Stage.PRUNE).read_tensors(BATCHNORM_NAME)
            loaded.network.module.load_state_dict(statistics, strict=False)
        return loaded

    def read_final(self) -> LoadedModel:
        """Read the final model, cut where its structure was, onto the job's device."""
        loaded = self.read_start()
        load_state(loaded.network.module, self.final_folder)
        return loaded

    def cut(self, network: Network) -> None:
        """Cut a network of the uploaded architecture as the stage prune cut the uploaded one."""
        if self.removal is not None:
            remove(network.module, self.removal)

    @cached_property
    def removal(self) -> Removal | None:
        """What the stage prune cut out; None where the spec asks for no such thing."""
        if self.spec.structure is None:
            return None
        return load_removal(self.folder(Stage.PRUNE).read_json(REMOVAL_NAME))

    def select_exported(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return those tensors of a final state that the upload has, under the names that they have there."""
        loaded = self.read_dense()
        removal = self.removal
        renamed = (name if removal is None else removal.rename(name) for name in loaded.tensor_names)
        names = [name for name in renamed if name is not None]
        return {loaded.names_in_file.get(name, name): state[name] for name in names}

    @property
    def exported_model(self) -> ModelInput:
        """The uploaded model with the architecture of what is exported, its files those of the upload."""
        if self.removal is None:
            return self.given.model
        # What was cut before and not now is as the upload says.
        before = self.given.model.architecture.get(CUT)
        counts = {**read_counts(before), **self.removal.counts}
        names = {knob: self.removal.rename(knob.module) for knob in counts}
        cut = describe_cut(
            {Knob(now, knob.attribute): counts[knob] for knob, now in names.items() if now is not None},
            join_depths(read_depths(before), self.removal.depths),
        )
        architecture = {**self.given.model.architecture, CUT: cut}
        return self.given.model.model_copy(update={"architecture": architecture})

    def check_uploads(self) -> None:
        """Compare each local copy with its digest; raises Unavailable, since a fresh copy may be right."""
        uploads: list[ModelInput | DatasetInput] = [self.given.model]
        if self.given.dataset:
            uploads.append(self.given.dataset)
        for upload in uploads:
            for role, path in upload.files.items():
                if not path.is_file() or digest_file(path) != upload.sha256.get(role):
                    raise Unavailable(
                        f"the worker's copy of {role!r} is missing or differs from the upload (SHA-256 "
                        f"{upload.sha256.get(role)}); it is fetched again when the job is retried"
                    )


def load_state(module: nn.Module, folder: StageFolder) -> None:
    """Load the weights that a stage left."""
    module.load_state_dict(read_tensors(folder.path / STATE_NAME))


def describe_versions() -> dict[str, str]:
    """Name the versions of what computes."""
    imported = {
        "secateur": code_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "safetensors": safetensors.__version__,
    }
    # Asked for, not imported: only some jobs do that.
    return imported | {name: version(name) for name in ("transformers", "tokenizers", "pyarrow")}


def describe_device(device: str) -> str:
    """Name the device and, on a CPU, its vector instructions: they decide the last bits of a sum."""
    if device == "cuda":
        return f"cuda ({torch.cuda.get_device_name()})"
    has_bfloat16 = computes_in_bfloat16(torch.device(device))
    return f"cpu ({torch.backends.cpu.get_cpu_capability()}{', bfloat16' if has_bfloat16 else ''})"
