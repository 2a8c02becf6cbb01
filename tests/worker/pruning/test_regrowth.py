"""Dynamic sparsity: weak weights go, others come, the counts stay."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.worker.pruning.loop import network, train, zeros
from tests.worker.pruning.networks import Transformer, batches, fill
from worker.pruning import MaskSet, Pruner
from worker.pruning.errors import NeedsTraining, NonfiniteScores, NoRegrowth
from worker.pruning.plan import make_plan
from worker.pruning.recipe import read_recipe
from worker.pruning.registry import build

Json = dict[str, object]
PATTERNS = ["unstructured", "n_m", "neuron", "filter", "channel", "block", "head"]
SCHEDULES = ["rigl", "set"]


def recipe(schedule: str = "rigl", pattern: str = "unstructured", **params: object) -> Json:
    return {
        "criterion": {"name": "random"},
        "pattern": {"name": pattern, "params": {"shape": [2, 2]} if pattern == "block" else {}},
        "allocation": {"name": "erk" if pattern == "unstructured" else "uniform"},
        "target": {"value": 0.5},
        "schedule": {"name": schedule, "params": {"interval_fraction": 0.1, **params}},
    }


def model_for(pattern: str) -> nn.Module:
    if pattern != "head":
        return network()
    model = Transformer()
    fill(model, 0, tied=False)
    return model


def counts(masks: MaskSet) -> dict[str, int]:
    return {name: int(mask.sum()) for name, mask in masks.items()}


def run(model: nn.Module, given_recipe: Json, steps: int = 20, **changes: int) -> Pruner:
    pruner = Pruner(model, given_recipe, steps=steps, **changes)
    pruner.attach(optimizer := torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9, weight_decay=0.01))
    for step in range(steps):
        train(model, optimizer, pruner, steps=range(step, step + 1))
    return pruner


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_layer_keeps_its_count_while_its_weights_move(schedule: str, pattern: str) -> None:
    model = model_for(pattern)
    # Of two kept heads, three tenths are one.
    given_recipe = recipe(schedule, pattern)
    plan = make_plan(model, read_recipe(given_recipe))
    pruner = Pruner(model, given_recipe, steps=20)
    pruner.attach(optimizer := torch.optim.AdamW(model.parameters(), lr=0.01))
    first = pruner.masks
    for step in range(20):
        train(model, optimizer, pruner, steps=range(step, step + 1))
        assert counts(pruner.masks) == counts(first)
        assert zeros(model, pruner)
    # A pruned head is zero on its way in and out, so it has hardly a gradient to come back by.
    assert pruner.masks != first or (schedule, pattern) == ("rigl", "head")
    assert all(reached.dropped == reached.grown for reached in pruner.history[1:])
    assert pruner.finish().sparsity == pytest.approx(0.5, abs=0.05)
    for unit in plan.units:
        for layer in unit.layers:
            groups = plan.pattern.lay_out(unit, layer, pruner.masks[layer.name])
            assert torch.equal(groups.all(dim=1), groups.any(dim=1))
    if pattern == "n_m":
        assert all(m.movedim(1, -1).reshape(-1, 4).sum(dim=1).eq(2).all() for m in pruner.masks.values())


class Hand:
    """One layer with weights, mask and gradients made by hand."""

    def __init__(self, weights: list[float], *, value: float = 0.5, **params: object) -> None:
        self.layer = nn.Linear(len(weights), 1, bias=False)
        with torch.no_grad():
            self.layer.weight.copy_(torch.tensor([weights]))
        schedule = {"name": "rigl", "params": params}
        self.pruner = Pruner(self.layer, {"target": {"value": value}, "schedule": schedule})
        self.pruner.update()

    def regrow(self, gradients: list[float], progress: float = 0.0) -> list[int]:
        self.layer.weight.grad = torch.tensor([gradients])
        return self.pruner.regrow(progress)["weight"].flatten().nonzero().flatten().tolist()


def test_the_weakest_make_room_for_the_largest_gradients_of_what_is_not_kept() -> None:
    hand = Hand([9, -8, 7, 6, 1, 1, 1, 1], drop_fraction=0.5)
    # 7 and 6 go, half of four; of what is not kept then, the sixth and seventh have the largest gradients.
    assert hand.regrow([99, 99, 0.1, 0.2, 0.3, -5, 4, 0.3]) == [0, 1, 5, 6]
    assert hand.layer.weight.tolist() == [[9, -8, 0, 0, 0, 0, 0, 0]]
    assert (hand.pruner.history[-1].dropped, hand.pruner.history[-1].grown) == (2, 2)


def test_what_goes_and_comes_at_once_was_never_away() -> None:
    hand = Hand([9, -8, 7, 6, 1, 1, 1, 1], drop_fraction=0.5)
    assert hand.regrow([0, 0, 50, 0.2, 0.3, -5, 4, 0.3]) == [0, 1, 2, 5]
    assert hand.layer.weight.tolist() == [[9, -8, 7, 0, 0, 0, 0, 0]]


def test_the_share_fades_as_published() -> None:
    # alpha / 2 (1 + cos(pi t / T)) with alpha = 0.3, T = 0.75: 0.3 at 0, half at T / 2, none at T.
    share = build("schedule", "rigl", {}).share
    assert (share(0.0), share(0.375)) == pytest.approx((0.3, 0.15))
    assert share(0.25) == pytest.approx(0.15 * (1 + math.cos(math.pi / 3)))
    assert share(0.75) == share(1.0) == 0.0
    constant = build("schedule", "set", {"decay": "constant"}).share
    assert (constant(0.0), constant(0.7), constant(0.8)) == (0.3, 0.3, 0.0)
    assert build("schedule", "set", {}).share(0.375) == pytest.approx(0.15)


def test_the_share_is_of_the_kept_weights() -> None:
    hand = Hand([float(i) for i in range(1, 101)], value=0.9)
    kept = hand.regrow([1000.0 - i for i in range(100)])
    assert kept == [0, 1, 2, *range(93, 100)]  # three tenths of ten


def test_what_comes_starts_at_zero_and_without_a_memory() -> None:
    model = network()
    pruner = Pruner(model, recipe(), steps=20)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    pruner.attach(optimizer)
    weights = dict(model.named_parameters())
    for step in range(15):
        before = pruner.masks
        train(model, optimizer, pruner, steps=range(step, step + 1))
        for name, grown in (pruner.masks - before).items():
            assert not weights[name][grown].any()
            state = [v for v in optimizer.state[weights[name]].values() if v.shape == grown.shape]
            assert state
            assert all(not value[grown].any() for value in state)


def test_after_the_stop_nothing_moves() -> None:
    pruner = run(network(), recipe())
    assert [reached.round.step for reached in pruner.history] == [0, 2, 4, 6, 8, 10, 12, 14]


def test_without_gradients_the_refusal_says_where_to_call_step() -> None:
    model = network()
    pruner = Pruner(model, recipe(), steps=20)
    pruner.attach(optimizer := torch.optim.SGD(model.parameters(), lr=0.1))
    train(model, optimizer, pruner, steps=range(1))
    optimizer.zero_grad()
    with pytest.raises(NeedsTraining, match=r"conv1\.weight has no gradient.*before zero_grad"):
        pruner.step()


def test_a_layer_that_took_no_part_in_the_step_keeps_its_weights() -> None:
    class Unused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.used(x)
            return out

    torch.manual_seed(0)
    model = Unused()
    pruner = Pruner(model, recipe(), steps=20)
    pruner.attach(optimizer := torch.optim.SGD(model.parameters(), lr=0.1))
    first = pruner.masks
    for _ in range(20):
        model(torch.randn(16, 8)).square().mean().backward()
        optimizer.step()
        pruner.step()
        optimizer.zero_grad()
    assert torch.equal(pruner.masks["unused.weight"], first["unused.weight"])
    assert not torch.equal(pruner.masks["used.weight"], first["used.weight"])
    assert counts(pruner.masks) == counts(first)


def test_gradients_that_are_not_finite_are_refused() -> None:
    hand = Hand([4, 3, 2, 1])
    with pytest.raises(NonfiniteScores, match="nan"):
        hand.regrow([0, 0, math.nan, 0])


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_frozen_layer_keeps_its_weights(schedule: str) -> None:
    model = network()
    model.conv1.weight.requires_grad_(False)
    pruner = Pruner(model, recipe(schedule), steps=20)
    pruner.attach(optimizer := torch.optim.SGD(model.parameters(), lr=0.02))
    first, weight = pruner.masks, model.conv1.weight.clone()
    train(model, optimizer, pruner, steps=range(20))
    # A gradient from before it was frozen may still be there.
    model.conv1.weight.grad = torch.rand_like(model.conv1.weight)
    pruner.regrow(0.1)
    assert torch.equal(pruner.masks["conv1.weight"], first["conv1.weight"])
    assert torch.equal(model.conv1.weight, weight)
    assert not torch.equal(pruner.masks["conv2.weight"], first["conv2.weight"])


def test_chance_depends_on_the_seed_alone() -> None:
    one, same, other = (run(network(), recipe("set"), seed=seed).masks for seed in (1, 1, 2))
    assert one == same != other


def test_a_schedule_that_does_not_regrow_refuses_to() -> None:
    with pytest.raises(NoRegrowth, match="one_shot does not regrow"):
        Pruner(network(), {"target": {"value": 0.5}}).regrow(0.5)


@pytest.mark.parametrize("pattern", PATTERNS)
@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 99))
def test_masks_drawn_by_chance_prune_as_much_of_each_layer(pattern: str, seed: int) -> None:
    model = model_for(pattern)
    pruner = Pruner(model, {**recipe(pattern=pattern), "schedule": {"name": "one_shot"}}, batches(model))
    initial = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    before = pruner.update()
    drawn = pruner.draw_masks(seed=seed)
    assert counts(drawn) == counts(before)
    assert drawn != before or pattern in ("head", "filter", "channel")
    pruner.rewind(initial)
    weights: dict[str, Tensor] = dict(model.named_parameters())
    for name, mask in drawn.items():
        assert torch.equal(weights[name], initial[name] * mask)
