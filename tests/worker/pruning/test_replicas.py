"""Zeros are the same in every process of distributed training (DistributedDataParallel over gloo)."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import distributed, multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

from tests.worker.pruning.networks import ConvNet, batches, fill
from worker.pruning import MaskSet, Pruner

PROCESSES = 2
STEPS = 4
SCHEDULE = {"name": "cubic"}
RECIPES = {
    "magnitude": {"target": {"value": 0.7}, "schedule": SCHEDULE},
    # Reads data, which every process has its own part of.
    "taylor": {"target": {"value": 0.7}, "schedule": SCHEDULE, "criterion": {"name": "taylor"}},
    "movement": {"target": {"value": 0.7}, "schedule": SCHEDULE, "criterion": {"name": "movement"}},
    # Grows weights where the gradients are largest.
    "rigl": {"target": {"value": 0.7}, "schedule": {"name": "rigl", "params": {"interval_fraction": 0.25}}},
    # Grows weights by chance, which every process draws from a seed of its own.
    "set": {"target": {"value": 0.7}, "schedule": {"name": "set", "params": {"interval_fraction": 0.25}}},
    # Changes the kept weights too, by the data.
    "sparsegpt": {"target": {"value": 0.5}, "criterion": {"name": "sparsegpt"}},
}


def train_replica(rank: int, folder: str) -> None:
    """Train one replica by each recipe on data and a seed of its own; save its masks and its state dict."""
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=PROCESSES
    )
    for name, recipe in RECIPES.items():
        model = ConvNet()
        fill(model, rank, tied=False)
        replica = DistributedDataParallel(model)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.05, weight_decay=0.1)
        pruner = Pruner(model, recipe, batches(model, seed=100 + rank), seed=rank, steps=STEPS)
        pruner.attach(optimizer)
        for step in range(STEPS):
            (x, y), *_ = batches(model, seed=PROCESSES * step + rank)
            nn.functional.cross_entropy(replica(x), y).backward()
            optimizer.step()
            pruner.step()
            optimizer.zero_grad()
        pruner.finish().save(Path(folder) / f"{name}-{rank}.masks")
        # BatchNorm's running statistics are those of each process; DDP shares those of the first.
        save_file(dict(model.named_parameters()), Path(folder) / f"{name}-{rank}.weights")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("replicas")
    multiprocessing.spawn(train_replica, (str(folder),), nprocs=PROCESSES)
    return folder


@pytest.mark.parametrize("name", RECIPES)
def test_every_process_ends_with_the_same_masks(folder: Path, name: str) -> None:
    first, other = (MaskSet.load(folder / f"{name}-{rank}.masks") for rank in range(PROCESSES))
    assert first == other
    assert first.sparsity == pytest.approx(RECIPES[name]["target"]["value"], abs=0.001)


@pytest.mark.parametrize("name", RECIPES)
def test_every_process_ends_with_the_same_weights_and_zeros(folder: Path, name: str) -> None:
    first, other = (load_file(folder / f"{name}-{rank}.weights") for rank in range(PROCESSES))
    assert all(torch.equal(first[key], other[key]) for key in first)
    for key, mask in MaskSet.load(folder / f"{name}-0.masks").items():
        assert not first[key][~mask].any()
