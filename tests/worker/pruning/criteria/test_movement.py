"""Movement pruning: scores learned on the way, weights that come back with the value they had."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from tests.worker.pruning.loop import compute_gradients, network, train, zeros
from worker.pruning import Pruner
from worker.pruning.errors import NeedsTraining
from worker.pruning.layers import find_layers
from worker.pruning.learning import ScoreLearner
from worker.pruning.registry import build

MOVEMENT = {"criterion": {"name": "movement"}, "target": {"value": 0.5}, "schedule": {"name": "cubic"}}
SOFT = {
    **MOVEMENT,
    "criterion": {"name": "movement_soft", "params": {"score_learning_rate": 0.3}},
}
both = pytest.mark.parametrize("recipe", [MOVEMENT, SOFT], ids=["hard", "soft"])


class Push:
    """A layer of four weights, an optimizer, and gradients made by hand."""

    def __init__(self, weights: list[float], **options: float) -> None:
        self.layer = nn.Linear(4, 1, bias=False)
        with torch.no_grad():
            self.layer.weight.copy_(torch.tensor([weights]))
        self.optimizer = torch.optim.SGD(self.layer.parameters(), **{"lr": 0.1, **options})
        self.pruner = Pruner(self.layer, MOVEMENT)
        self.pruner.attach(self.optimizer)

    def step(self, gradients: list[float], *, is_sparse: bool = False) -> None:
        dense = torch.tensor([gradients])
        self.layer.weight.grad = dense.to_sparse() if is_sparse else dense
        self.optimizer.step()
        self.pruner.step()

    @property
    def weights(self) -> list[float]:
        return self.layer.weight.detach().flatten().tolist()


def test_without_adam_scores_are_the_sum_of_minus_gradient_times_weight() -> None:
    criterion = build("criterion", "movement", {"optimizer": "sgd"})
    memory = criterion.start(torch.zeros(3))
    criterion.learn(memory, torch.tensor([1.0, -2.0, 3.0]), torch.tensor([0.5, 0.5, 0.0]), pressure=1.0)
    criterion.learn(memory, torch.tensor([2.0, -1.0, 3.0]), torch.tensor([-1.0, 2.0, 0.0]), pressure=1.0)
    # -(1)(0.5) - (2)(-1) = 1.5; -(-2)(0.5) - (-1)(2) = 3; 0
    assert memory["scores"].tolist() == [1.5, 3.0, 0.0]


@pytest.mark.parametrize("name", ["movement", "movement_soft"])
def test_with_adam_scores_are_those_of_torch_s_adam(name: str) -> None:
    """Without any pressure: dL/dS is gradient times weight."""
    given = {"score_learning_rate": 1.0} if name == "movement_soft" else {}
    criterion = build("criterion", name, given)
    generator = torch.Generator().manual_seed(0)
    expected = torch.zeros(5, 3, requires_grad=True)
    adam = torch.optim.Adam([expected], lr=1.0, eps=1e-12)
    memory = criterion.start(torch.zeros(5, 3))
    for _ in range(20):
        weight, gradient = (torch.randn(5, 3, generator=generator) for _ in range(2))
        criterion.learn(memory, weight, gradient, pressure=0.0)
        expected.grad = weight * gradient
        adam.step()
    assert torch.allclose(memory["scores"], expected.detach(), atol=1e-5)


def test_with_adam_a_large_weight_s_score_is_no_larger_than_a_small_one_s() -> None:
    """What counts is how steadily a weight moves, not how far one step would take the loss."""
    criterion = build("criterion", "movement", {})
    memory = criterion.start(torch.zeros(2))
    for sign in (1.0, -1.0, 1.0, -1.0):
        criterion.learn(memory, torch.tensor([100.0, 0.1]), torch.tensor([sign, -1.0]), pressure=0.0)
    steady, large = memory["scores"][1], memory["scores"][0]
    assert steady > large.abs()


def test_what_moves_away_from_zero_is_kept_however_small_it_is() -> None:
    push = Push([0.1, -0.1, 5.0, -5.0])
    push.step([-1.0, 1.0, 1.0, -1.0])
    assert push.pruner.update()["weight"].tolist() == [[True, True, False, False]]


def test_a_weight_comes_back_with_the_value_it_had() -> None:
    push = Push([2.0, 2.0, 1.0, 1.0], lr=0.0)
    push.step([-1.0, -1.0, 0.5, 0.4])
    push.pruner.update()
    assert push.weights == [2.0, 2.0, 0.0, 0.0]
    # While it is pruned its score learns, and that of the first falls.
    for _ in range(5):
        push.step([1.0, -1.0, -9.0, 0.0])
    assert push.weights == [2.0, 2.0, 0.0, 0.0]
    push.pruner.update()
    assert push.weights == [0.0, 2.0, 1.0, 0.0]
    assert (push.pruner.history[-1].dropped, push.pruner.history[-1].grown) == (1, 1)


def test_neither_decay_nor_momentum_moves_the_value_that_a_pruned_weight_had() -> None:
    push = Push([2.0, 2.0, 1.0, 1.0], lr=0.1, weight_decay=0.5, momentum=0.9)
    push.step([-1.0, -1.0, 1.0, 1.0])
    before = push.weights
    push.pruner.update()
    for _ in range(5):
        push.step([0.0, -1.0, -100.0, 1.0])
    push.pruner.update()
    assert push.weights[2] == before[2]
    assert push.weights[0] == push.weights[3] == 0.0


def test_pruned_weights_have_no_gradient_left_when_the_optimizer_steps() -> None:
    push = Push([2.0, 2.0, 1.0, 1.0])
    push.step([-1.0, -1.0, 1.0, 1.0])
    push.pruner.update()
    push.step([3.0, 3.0, 3.0, 3.0])
    assert push.layer.weight.grad is not None
    assert push.layer.weight.grad.tolist() == [[3.0, 3.0, 0.0, 0.0]]


def test_sparse_gradients_teach_what_dense_ones_do() -> None:
    dense, sparse = (Push([2.0, 2.0, 1.0, 1.0]) for _ in range(2))
    for gradients in ([-1.0, -1.0, 0.5, 0.4], *([[1.0, -1.0, -9.0, 0.0]] * 5)):
        dense.step(gradients)
        sparse.step(gradients, is_sparse=True)
        assert sparse.weights == dense.weights
        assert sparse.pruner.update() == dense.pruner.update()
    assert sum(reached.grown for reached in sparse.pruner.history) > 0


def test_where_nothing_moved_magnitude_decides() -> None:
    push = Push([0.3, -0.4, 0.1, 0.2])
    push.step([0.0, 0.0, 0.0, 0.0])
    assert push.pruner.update()["weight"].tolist() == [[True, True, False, False]]


def test_a_layer_without_gradients_goes_by_magnitude_too() -> None:
    model = network()
    model.fc1.weight.requires_grad_(False)
    recipe = {**MOVEMENT, "allocation": {"name": "uniform"}}
    pruner = Pruner(model, recipe, steps=20)
    pruner.attach(optimizer := torch.optim.SGD(model.parameters(), lr=0.05))
    before = model.fc1.weight.abs().flatten()
    train(model, optimizer, pruner, steps=range(20))
    mask = pruner.finish()["fc1.weight"].flatten()
    assert before[mask].min() >= before[~mask].max()
    assert zeros(model, pruner)


@both
def test_without_training_the_refusal_says_what_is_needed(recipe: dict) -> None:
    with pytest.raises(NeedsTraining, match="needs training steps"):
        Pruner(network(), recipe).update()
    pruner = Pruner(network(), {**recipe, "schedule": {"name": "one_shot"}}, steps=10)
    with pytest.raises(NeedsTraining, match="let the schedule start after the first step"):
        pruner.attach(torch.optim.SGD(pruner.model.parameters(), lr=0.1))


@both
@pytest.mark.parametrize("pattern", ["unstructured", "neuron", "n_m", "block"])
def test_a_training_ends_with_exactly_the_target(recipe: dict, pattern: str) -> None:
    model = network()
    recipe = {**recipe, "pattern": {"name": pattern}}
    if pattern == "block":
        recipe["pattern"]["params"] = {"shape": [2, 2]}
    pruner = Pruner(model, recipe, steps=40)
    pruner.attach(optimizer := torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1))
    for step in range(40):
        train(model, optimizer, pruner, steps=range(step, step + 1))
        assert zeros(model, pruner)
    masks = pruner.finish()
    # Neurons of two sizes cannot always add up to half of the weights.
    assert abs(masks.kept - masks.numel // 2) <= (8 if pattern == "neuron" else 0)
    assert sum(reached.grown for reached in pruner.history) > 0
    assert pruner.history[-1].round.step == 32  # four fifths of the run, the rest is the cool-down


@both
def test_masks_are_chosen_anew_at_every_hundredth_of_a_run(recipe: dict) -> None:
    rounds = Pruner(network(), recipe, steps=1000).rounds
    assert [planned.step for planned in rounds] == list(range(10, 801, 10))


def test_a_soft_threshold_says_how_many_go_until_the_target_is_due() -> None:
    model = network()
    pruner = Pruner(model, SOFT, steps=40)
    pruner.attach(optimizer := torch.optim.SGD(model.parameters(), lr=0.05))
    for step in range(32):
        train(model, optimizer, pruner, steps=range(step, step + 1))
        scores = pruner.state_dict()["memory"]
        below = sum(int((m["scores"].sigmoid() <= 0.1).sum()) for m in scores.values())
        pruned = pruner.masks.numel - pruner.masks.kept
        assert pruned == (min(below, 384) if step < 31 else 384)


def test_pressure_makes_a_soft_threshold_prune_more() -> None:
    sparsities = []
    for weight in (0.0, 20.0):
        model = network()
        params = {"score_learning_rate": 0.1, "regularisation": weight}
        recipe = {**SOFT, "criterion": {"name": "movement_soft", "params": params}, "target": {"value": 0.9}}
        pruner = Pruner(model, recipe, steps=50)
        pruner.attach(optimizer := torch.optim.SGD(model.parameters(), lr=0.05))
        train(model, optimizer, pruner, steps=range(39))
        sparsities.append(pruner.masks.sparsity)
    assert sparsities[0] < sparsities[1] < 0.9


def test_gradients_that_a_closure_makes_are_learned_from() -> None:
    plain, closed = network(), network()
    pruners = []
    for model in (plain, closed):
        pruner = Pruner(model, MOVEMENT, steps=20)
        pruner.attach(optimizer := torch.optim.SGD(model.parameters(), lr=0.05))
        pruners.append(pruner)
        for step in range(20):
            if model is plain:
                train(model, optimizer, pruner, steps=range(step, step + 1))
            else:

                def closure(seed: int = step) -> Tensor:
                    compute_gradients(closed, seed)
                    return torch.tensor(0.0)

                optimizer.step(closure)
                pruner.step()
    assert pruners[0].finish() == pruners[1].finish()
    assert torch.equal(plain.fc1.weight, closed.fc1.weight)


def test_rewinding_forgets_what_was_learned() -> None:
    model = network()
    initial = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    pruner = Pruner(model, MOVEMENT, steps=20)
    pruner.attach(optimizer := torch.optim.SGD(model.parameters(), lr=0.05))
    train(model, optimizer, pruner, steps=range(20))
    pruner.rewind(initial)
    assert zeros(model, pruner)
    with pytest.raises(NeedsTraining):
        pruner.update()


def test_what_is_learned_follows_its_layer_to_another_device() -> None:
    layer = nn.Linear(4, 2, bias=False)
    layer(torch.rand(3, 4)).sum().backward()
    (found,) = find_layers(layer)
    learner = ScoreLearner(build("criterion", "movement", {}), (found,), {"weight": (layer.weight,)})
    learner.learn((found,), {}, pressure=0.0)
    learner.cover({"weight": torch.rand(2, 4) < 0.5})
    # As if the model had been moved to a GPU.
    learner._layers["weight"] = replace(found, weight=nn.Parameter(layer.weight.detach().to("meta")))
    assert learner.scores["weight"].device.type == "meta"
    assert learner.state_dict()["latent"]["weight"].device.type == "meta"
