"""Zeros stay zeros whatever else a training loop does with its model."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import SWALR, AveragedModel, get_ema_multi_avg_fn, update_bn

from tests.worker.pruning.networks import ConvNet, batches, fill
from worker.pruning import MaskSet, Pruner

STEPS = 6
ONE_SHOT = {"target": {"value": 0.7}}
GRADUAL = {**ONE_SHOT, "schedule": {"name": "cubic"}}


def network(seed: int = 0) -> ConvNet:
    model = ConvNet()
    fill(model, seed, tied=False)
    return model


def loss_of(model: nn.Module, seed: int) -> Tensor:
    (x, y), *_ = batches(ConvNet(), seed)
    return nn.functional.cross_entropy(model(x), y)


def zeros(model: nn.Module, masks: MaskSet) -> int:
    """Count what is not zero where the masks prune."""
    weights = dict(model.named_parameters())
    return sum(int(weights[name][~mask].count_nonzero()) for name, mask in masks.items())


def train(
    model: nn.Module,
    recipe: dict[str, object],
    *,
    forward: nn.Module | None = None,
    after: Callable[[Pruner], None] = lambda _: None,
) -> Pruner:
    """Train a few steps through `forward` (the model, or a wrapper of it); finish the pruner."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05, weight_decay=0.1)
    pruner = Pruner(model, recipe, steps=STEPS)
    pruner.attach(optimizer)
    for step in range(STEPS):
        loss_of(model if forward is None else forward, step).backward()
        optimizer.step()
        pruner.step()
        optimizer.zero_grad()
        after(pruner)
    pruner.finish()
    return pruner


def test_a_copy_of_the_model_is_as_sparse_and_on_its_own() -> None:
    model = network()
    pruner = train(model, GRADUAL)
    twin = copy.deepcopy(model)
    assert zeros(twin, pruner.masks) == 0
    with torch.no_grad():
        twin.conv1.weight.fill_(1.0)
    assert zeros(model, pruner.masks) == 0


def test_a_compiled_model_is_pruned_without_compiling_again() -> None:
    compilations = 0

    def backend(graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., object]:
        nonlocal compilations
        compilations += 1
        return graph.forward

    plain, model = network(), network()
    torch.compiler.reset()
    compiled = torch.compile(model, backend=backend)
    pruner = train(model, GRADUAL, forward=compiled)
    assert compilations == 1
    expected = train(plain, GRADUAL)
    assert pruner.masks == expected.masks
    assert all(map(torch.equal, model.parameters(), plain.parameters()))


def test_a_pruner_of_the_compiled_model_itself_does_the_same() -> None:
    model = network()
    compiled = torch.compile(model, backend="eager")
    pruner = train(compiled, ONE_SHOT)
    assert pruner.masks.sparsity == pytest.approx(0.7, abs=0.001)
    weights = dict(model.named_parameters())
    pruned = {name.removeprefix("_orig_mod."): mask for name, mask in pruner.masks.items()}
    assert not any(weights[name][~mask].any() for name, mask in pruned.items())


@pytest.mark.parametrize("average", [None, get_ema_multi_avg_fn(0.9)], ids=["swa", "ema"])
def test_an_average_of_models_pruned_before_it_starts_is_as_sparse(average: Callable | None) -> None:
    model = network()
    averaged: list[AveragedModel] = []

    def after(pruner: Pruner) -> None:
        if not averaged:
            averaged.append(AveragedModel(model, multi_avg_fn=average))
        averaged[0].update_parameters(model)

    pruner = train(model, ONE_SHOT, after=after)
    assert zeros(averaged[0].module, pruner.masks) == 0


@pytest.mark.parametrize("average", [None, get_ema_multi_avg_fn(0.9)], ids=["swa", "ema"])
def test_an_average_over_growing_masks_has_leftovers_until_the_masks_are_applied(
    average: Callable | None,
) -> None:
    model = network()
    averaged = AveragedModel(model, multi_avg_fn=average)
    pruner = train(model, GRADUAL, after=lambda _: averaged.update_parameters(model))
    assert zeros(averaged.module, pruner.masks) > 0
    kept = averaged.module.conv1.weight[pruner.masks["conv1.weight"]].clone()
    pruner.masks.apply(averaged)
    assert zeros(averaged.module, pruner.masks) == 0
    assert torch.equal(averaged.module.conv1.weight[pruner.masks["conv1.weight"]], kept)


def test_stochastic_weight_averaging_with_its_own_rate_and_batchnorm_ends_as_sparse() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    pruner = Pruner(model, GRADUAL, steps=STEPS)
    pruner.attach(optimizer)
    averaged, rate = AveragedModel(model), SWALR(optimizer, swa_lr=0.05)
    for step in range(STEPS):
        loss_of(model, step).backward()
        optimizer.step()
        pruner.step()
        optimizer.zero_grad()
        if step >= STEPS // 2:
            averaged.update_parameters(model)
            rate.step()
    masks = pruner.finish()
    masks.apply(averaged)
    update_bn([x for x, _ in batches(model)], averaged)
    assert zeros(averaged.module, masks) == 0


def test_accumulated_and_clipped_gradients_move_no_pruned_weight() -> None:
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05, weight_decay=0.1)
    pruner = Pruner(model, GRADUAL, steps=STEPS)
    pruner.attach(optimizer)
    sparsities = []
    for step in range(STEPS):
        for part in range(3):
            (loss_of(model, 3 * step + part) / 3).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        pruner.step()
        optimizer.zero_grad()
        sparsities.append(pruner.masks.sparsity)
        assert zeros(model, pruner.masks) == 0
    # 768 weights; the cubic ramp ends at the third of six steps.
    due = [round(538 * (1 - (1 - t / 3) ** 3)) / 768 for t in (1, 2, 3, 3, 3, 3)]
    assert sparsities == pytest.approx(due, abs=1e-9)


def test_a_scaler_that_skips_steps_and_bf16_autocast_bring_nothing_back() -> None:
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05, weight_decay=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0, growth_interval=1)
    pruner = Pruner(model, GRADUAL, steps=STEPS)
    pruner.attach(optimizer)
    skipped = 0
    for step in range(STEPS):
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of(model, step)
        scaler.scale(loss).backward()
        if step in (1, 4):
            model.fc1.weight.grad[0, 0] = torch.inf
        before = scaler.get_scale()
        scaler.step(optimizer)
        scaler.update()
        skipped += scaler.get_scale() < before
        pruner.step()
        optimizer.zero_grad()
        assert zeros(model, pruner.masks) == 0
    assert skipped == 2
    assert pruner.finish().sparsity == pytest.approx(0.7, abs=0.001)
    assert model.fc1.weight.dtype == torch.float32


def test_a_model_in_bf16_is_pruned_to_the_weight() -> None:
    model = network().to(torch.bfloat16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05, weight_decay=0.1)
    pruner = Pruner(model, GRADUAL, steps=STEPS)
    pruner.attach(optimizer)
    for step in range(STEPS):
        (x, y), *_ = batches(model, step)
        nn.functional.cross_entropy(model(x.bfloat16()).float(), y).backward()
        optimizer.step()
        pruner.step()
        optimizer.zero_grad()
    masks = pruner.finish()
    assert masks.numel - masks.kept == 538
    assert zeros(model, masks) == 0


class Adapter(nn.Module):
    """A frozen layer and a trained product of two thin ones beside it, as LoRA has it."""

    def __init__(self, frozen: nn.Linear, rank: int) -> None:
        super().__init__()
        self.frozen = frozen.requires_grad_(False)
        self.down = nn.Linear(frozen.in_features, rank, bias=False)
        self.up = nn.Linear(rank, frozen.out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.frozen(x) + self.up(self.down(x))


@pytest.mark.parametrize("criterion", ["magnitude", "taylor"])
@pytest.mark.parametrize("part", ["frozen", "trained"])
def test_frozen_layers_and_adapters_are_pruned_as_the_rows_say(part: str, criterion: str) -> None:
    model = network()
    model.fc1 = Adapter(model.fc1, 2)
    fill(model, 0, tied=False)
    for module in (model.conv1, model.conv2, model.fc2):
        module.requires_grad_(False)
    # The last row wins.
    only = {"frozen": "fc1.frozen.weight", "trained": "fc1.[du]*.weight"}[part]
    recipe = {
        **GRADUAL,
        "criterion": {"name": criterion},
        "layers": [{"match": "*", "set": {"exclude": True}}, {"match": only, "set": {"exclude": False}}],
    }
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05)
    pruner = Pruner(model, recipe, batches(ConvNet()), steps=STEPS)
    pruner.attach(optimizer)
    for step in range(STEPS):
        loss_of(model, step).backward()
        optimizer.step()
        pruner.step()
        optimizer.zero_grad()
    masks = pruner.finish()
    assert set(masks) == ({"fc1.frozen.weight"} if part == "frozen" else {"fc1.down.weight", "fc1.up.weight"})
    assert masks.numel - masks.kept == round(0.7 * masks.numel)
    assert zeros(model, masks) == 0
    after = model.state_dict()
    for name in ("conv1.weight", "conv2.weight", "fc2.weight"):
        assert torch.equal(after[name], before[name])
    assert not model.fc1.frozen.weight.requires_grad
    assert model.fc1.frozen.weight.grad is None
