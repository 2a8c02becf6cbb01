"""Prune a network in a plain PyTorch loop: the five lines that are marked."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from worker.pruning import Pruner  # 1

EPOCHS = 20


def main() -> None:
    torch.manual_seed(0)
    digits = load_digits()
    x, y = torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target)
    train = DataLoader(TensorDataset(x[:1500], y[:1500]), batch_size=64, shuffle=True)

    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    recipe = {"target": {"value": 0.9}, "schedule": {"name": "cubic"}}
    pruner = Pruner(model, recipe, steps=EPOCHS * len(train))  # 2
    pruner.attach(optimizer)  # 3
    for _ in range(EPOCHS):
        for inputs, targets in train:
            loss = nn.functional.cross_entropy(model(inputs), targets)
            loss.backward()
            optimizer.step()
            pruner.step()  # 4: after the optimizer's step, before the gradients are cleared
            optimizer.zero_grad()
    masks = pruner.finish()  # 5

    accuracy = (model(x[1500:]).argmax(dim=1) == y[1500:]).float().mean().item()
    zeros = sum(int((model.get_parameter(name) == 0).sum()) for name in masks)
    print(f"accuracy {accuracy:.3f} on digits that were not trained on")
    print(f"{zeros} of {masks.numel} weights are zero: sparsity {masks.sparsity:.4f}")


if __name__ == "__main__":
    main()
