"""Prune inside the Trainer of Lightning: one argument more."""

import tempfile

import lightning
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from worker.pruning.callbacks.lightning import PruningCallback


class Digits(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(288, 10),
        )

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


def main() -> None:
    lightning.seed_everything(0)
    digits = load_digits()
    x, y = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16, torch.tensor(digits.target)
    train = DataLoader(TensorDataset(x[:1500], y[:1500]), batch_size=50, shuffle=True)

    module = Digits()
    recipe = {"target": {"value": 0.85}, "schedule": {"name": "cubic"}}
    pruning = PruningCallback(recipe, submodule="net")
    with tempfile.TemporaryDirectory() as folder:
        trainer = lightning.Trainer(
            max_epochs=8,
            accelerator="cpu",
            accumulate_grad_batches=2,
            callbacks=[pruning],
            default_root_dir=folder,
            logger=False,
            enable_progress_bar=False,
        )
        trainer.fit(module, train)

    masks = pruning.pruner.masks
    zeros = sum(int((module.net.get_parameter(name) == 0).sum()) for name in masks)
    accuracy = (module.net.eval()(x[1500:]).argmax(dim=1) == y[1500:]).float().mean().item()
    print(f"accuracy {accuracy:.3f} on digits that were not trained on")
    print(f"{zeros} of {masks.numel} weights are zero: sparsity {masks.sparsity:.4f}")


if __name__ == "__main__":
    main()
