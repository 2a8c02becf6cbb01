"""Stop in the middle of a run and go on from what was saved: the same bits as in one go."""

import tempfile
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from worker.pruning import Pruner
from worker.pruning.callbacks.state import load_state, save_state

DIGITS = load_digits()
STEPS = 200
RECIPE = {"target": {"value": 0.9}, "schedule": {"name": "cubic"}}


def train(path: Path, *, until: int) -> nn.Module:
    """Train as far as step `until`, from the state that `path` holds if there is one; leave it there."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    pruner = Pruner(model, RECIPE, steps=STEPS)
    first = 0
    if path.exists():
        state = load_state(path)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        pruner.load_state_dict(state["pruner"])
        first = state["step"]
    pruner.attach(optimizer)  # after the state is restored: the first call prunes what is due

    for step in range(first, until):
        inputs, targets = batch(step)
        nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
        pruner.step()
        optimizer.zero_grad()

    if until < STEPS:
        parts = {"model": model, "optimizer": optimizer, "pruner": pruner}
        save_state(path, {"step": until, **{name: part.state_dict() for name, part in parts.items()}})
    else:
        masks = pruner.finish()
        print(f"sparsity {masks.sparsity:.4f} after {until} steps")
    return model


def batch(step: int) -> tuple[Tensor, Tensor]:
    """Return the batch of a step, the same whenever it is asked for."""
    chosen = torch.randint(len(DIGITS.data), (64,), generator=torch.Generator().manual_seed(step))
    return torch.tensor(DIGITS.data[chosen], dtype=torch.float32) / 16, torch.tensor(DIGITS.target[chosen])


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        in_one_go = train(Path(folder) / "never-written.safetensors", until=STEPS)
        train(Path(folder) / "state.safetensors", until=STEPS // 3)  # stopped amid the pruning
        resumed = train(Path(folder) / "state.safetensors", until=STEPS)
    same = all(map(torch.equal, in_one_go.parameters(), resumed.parameters()))
    print(f"the resumed run ended with {'the same' if same else 'other'} bits")


if __name__ == "__main__":
    main()
