"""Prune in distributed training: every process holds a pruner of its own replica, and all prune alike."""

import hashlib
import tempfile

import torch
from sklearn.datasets import load_digits
from torch import distributed, multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

from worker.pruning import Pruner

PROCESSES = 2
STEPS = 50
# Taylor scores need gradients: each process may gather them over data of its own.
RECIPE = {"criterion": {"name": "taylor"}, "target": {"value": 0.9}, "schedule": {"name": "cubic"}}


def train(rank: int, folder: str) -> None:
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=PROCESSES
    )
    torch.set_num_threads(1)  # the processes share the cores of one machine
    digits = load_digits()
    x = torch.tensor(digits.data[rank::PROCESSES], dtype=torch.float32) / 16
    y = torch.tensor(digits.target[rank::PROCESSES])
    torch.manual_seed(rank)
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    replica = DistributedDataParallel(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

    pruner = Pruner(model, RECIPE, [(x[:256], y[:256])], steps=STEPS)  # the model, not its replica
    pruner.attach(optimizer)
    for _ in range(STEPS):
        chosen = torch.randint(len(x), (32,))
        nn.functional.cross_entropy(replica(x[chosen]), y[chosen]).backward()
        optimizer.step()
        pruner.step()  # in every process, since they exchange their masks
        optimizer.zero_grad()
    masks = pruner.finish()

    weights = b"".join(parameter.detach().numpy().tobytes() for parameter in model.parameters())
    zeros = sum(int((model.get_parameter(name) == 0).sum()) for name in masks)
    found = (
        f"{zeros} of {masks.numel} weights are zero, sha256 of all {hashlib.sha256(weights).hexdigest()[:12]}"
    )
    reports: list[str | None] = [None] * PROCESSES
    distributed.all_gather_object(reports, found)
    if rank == 0:
        print("\n".join(f"process {number}: {report}" for number, report in enumerate(reports)))
        print(f"sparsity {masks.sparsity:.4f}")
    distributed.barrier()  # nobody leaves while its threads still send
    distributed.destroy_process_group()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as shared:
        multiprocessing.spawn(train, (shared,), nprocs=PROCESSES)
