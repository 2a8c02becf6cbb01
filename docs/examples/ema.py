"""Keep an average of the weights (EMA) of a network that is pruned while it trains."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from worker.pruning import Pruner

STEPS = 400


def main() -> None:
    torch.manual_seed(0)
    digits = load_digits()
    x, y = torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target)
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.99))

    pruner = Pruner(model, {"target": {"value": 0.9}, "schedule": {"name": "cubic"}}, steps=STEPS)
    pruner.attach(optimizer)
    for _ in range(STEPS):
        chosen = torch.randint(1500, (64,))
        nn.functional.cross_entropy(model(x[chosen]), y[chosen]).backward()
        optimizer.step()
        pruner.step()
        optimizer.zero_grad()
        average.update_parameters(model)  # after pruner.step(), so that it averages zeros
    masks = pruner.finish()

    print(f"pruned weights that the average still remembers: {remembered(average, masks)}")
    masks.apply(average)  # what it averaged before they were pruned goes too
    print(f"after masks.apply(average): {remembered(average, masks)}")
    for name, network in (("trained", model), ("averaged", average)):
        accuracy = (network(x[1500:]).argmax(dim=1) == y[1500:]).float().mean().item()
        print(f"accuracy of the {name} network {accuracy:.3f}, sparsity {masks.sparsity:.4f}")


def remembered(average: AveragedModel, masks: dict[str, torch.Tensor]) -> int:
    """Count the weights that are pruned in the model and not zero in its average."""
    return sum(int(average.module.get_parameter(name)[~mask].count_nonzero()) for name, mask in masks.items())


if __name__ == "__main__":
    main()
