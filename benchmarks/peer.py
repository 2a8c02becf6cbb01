"""torch-pruning (Fang et al. 2023, arXiv:2301.12900) as a peer: it cuts ResNet-56, our loop trains the rest.

A process of its own, on one thread. It cuts as its own benchmark on CIFAR does: group magnitude, many small
steps, global, until so many products are left. What comes out is trained by what trains our own jobs: the
same loss, teacher, data in the same order, settings. An interrupted run goes on from its checkpoint.

Two forms, since it does not follow the padding of shortcuts of option A: it takes channel i of the wide
stream for channel i of the narrow one, which really lies 8 or 16 further on. `whole` is what it does with the
network as it is; `inside` leaves the streams whole and cuts within blocks, where what it does is right.
"""

import argparse
import json
from pathlib import Path
from typing import Any, Final

import torch
import torch_pruning
from safetensors.torch import load_file
from torch import nn

from app.core.finetune import Finetune
from worker.datasets.npz import read_npz
from worker.datasets.registry import Splits
from worker.measure.comparison import read_answers
from worker.measure.macs import count_macs
from worker.measure.metrics import METRICS, measure
from worker.measure.records import record_split
from worker.models.registry import Network, build
from worker.numerics import make_deterministic, seed_everything
from worker.objectives.registry import find_task
from worker.protocol import DatasetInput
from worker.pruning import Pruner
from worker.training.checkpoint import Checkpoints
from worker.training.cycles import plan_phases
from worker.training.loop import Training
from worker.training.metric import Metric
from worker.training.recovery import Moment, Recovery
from worker.training.teacher import Teacher

FORMS: Final = ("whole", "inside")
RESULT = "peer.json"
_CPU = torch.device("cpu")
# So many steps would cut everything; its own benchmark takes 400 too.
_STEPS = 400
_CHECKPOINT_S = 60.0
_SAID_EVERY = 20
Json = dict[str, Any]  # Any: JSON


class _Progress:
    """Says now and then how far a training is."""

    def __init__(self, form: str, total: int) -> None:
        self._form, self._total = form, total

    wants_stop = False

    def resumed_at(self, step: int) -> None:
        print(f"torch-pruning, {self._form}: goes on at step {step}", flush=True)

    def checkpointed(self, step: int) -> None:
        pass

    def after_step(self, moment: Moment) -> None:
        if moment.step % _SAID_EVERY == 0:
            print(f"torch-pruning, {self._form}: step {moment.step} of {self._total}", flush=True)


def main(arguments: list[str] | None = None) -> None:
    """Cut, train and measure; the numbers lie in the output folder afterwards."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--form", choices=FORMS, required=True)
    parser.add_argument("--inputs", type=Path, required=True, help="what prepare_cifar has written")
    parser.add_argument("--macs", type=float, required=True)
    parser.add_argument("--finetune", type=json.loads, required=True)
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args(arguments)
    make_deterministic(threads=1, device="cpu")
    result = run_peer(given.form, given.inputs, macs=given.macs, finetune=given.finetune, output=given.output)
    (given.output / RESULT).write_text(json.dumps(result, indent=1))


def run_peer(form: str, inputs: Path, *, macs: float, finetune: Json, output: Path) -> Json:
    """Return what a report has: accuracy dense, cut and final, products before and after."""
    seed_everything(0)
    network = _read_dense(inputs)
    splits = _read_splits(inputs, network)
    settings = Finetune.model_validate(finetune)
    result: Json = {
        "form": form,
        "macs_before": _count(network, network.module),
        "baseline": _measure(network.module, splits),
    }
    module = cut_with_peer(network, form=form, limit=macs)
    result |= {"macs_after": _count(network, module), "pruned": _measure(module, splits)}
    result["widths"] = {
        name: layer.out_channels for name, layer in module.named_modules() if isinstance(layer, nn.Conv2d)
    }
    _train(module, splits, settings, teacher=_read_dense(inputs).module, output=output, form=form)
    result["final"] = _measure(module, splits)
    return result | {"drop": result["baseline"] - result["final"]}


def cut_with_peer(network: Network, *, form: str, limit: float) -> nn.Module:
    """Cut a ResNet in place until it does no more products than `limit`; returns it."""
    module = network.module
    sample = network.inputs.blank(1, _CPU)
    kept = [module.get_submodule("linear")]
    if form == "inside":
        kept += [
            layer for name, layer in module.named_modules() if name == "conv1" or name.endswith(".conv2")
        ]
    pruner = torch_pruning.pruner.BasePruner(
        module,
        sample,
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        global_pruning=True,
        pruning_ratio=1.0,
        max_pruning_ratio=0.9,
        iterative_steps=_STEPS,
        ignored_layers=kept,
    )
    for _ in range(_STEPS):
        if _count(network, module) <= limit:
            return module
        pruner.step()
    raise RuntimeError(f"torch-pruning stopped at {_count(network, module):,} products, asked {limit:,.0f}")


def _train(
    module: nn.Module, splits: Splits, settings: Finetune, *, teacher: nn.Module, output: Path, form: str
) -> None:
    task = find_task("image-classification")
    training = Training(
        settings=settings,
        split=splits["train"],
        objective=task.objective,
        metric=Metric(task.metrics[0], 10),
        seed=0,
        device=_CPU,
    )
    asked = {"form": form, "finetune": settings.model_dump_json()}
    checkpoints = Checkpoints(output / "checkpoints", asked, interval_s=_CHECKPOINT_S)
    recovery = Recovery(
        module,
        Pruner(module, {"target": {"value": 0.0}}, steps=training.steps),
        plan_phases(training, None),
        checkpoints=checkpoints,
        teacher=Teacher(
            teacher, training.split, settings=settings, device=_CPU, blocks=training.plan.first_epoch()
        ),
    )
    recovery.run(_Progress(form, recovery.total))


def _read_dense(inputs: Path) -> Network:
    network = build({"library": "secateur", "name": "resnet-56", "params": {}})
    network.module.load_state_dict(load_file(inputs / "resnet56.safetensors"))
    return network


def _read_splits(inputs: Path, network: Network) -> Splits:
    files = {name: inputs / f"{name}.npz" for name in ("train", "test")}
    manifest = json.loads((inputs / "dataset.json").read_text())
    return read_npz(
        DatasetInput(
            format="npz",
            task="image-classification",
            layout=manifest["layout"],
            normalize=manifest["normalize"],
            files=files,
            sha256={},
        ),
        network,
    )


def _measure(module: nn.Module, splits: Splits) -> float:
    objective = find_task("image-classification").objective
    records = record_split(module, splits["test"], objective, batch_size=256, device=_CPU)
    return measure(METRICS["accuracy"], read_answers(records, classes=10))


def _count(network: Network, module: nn.Module) -> float:
    return float(count_macs(module, network.inputs.blank(1, _CPU)).total)


if __name__ == "__main__":
    main()
