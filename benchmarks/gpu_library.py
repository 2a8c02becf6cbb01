"""Compute on a GPU what the library computes on the CPU: the same masks, exact counts, the same cuts."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import BertConfig, BertForSequenceClassification

from worker.models.registry import build
from worker.pruning import MaskSet, Pruner, prune
from worker.pruning.registry import Kind, entries
from worker.pruning.removal import shrink

SPARSITY: Final = 0.5
_STEPS = 40
Json = dict[str, Any]  # Any: JSON
_PARAMS: Final[dict[str, Json]] = {"n_m": {"keep": 2, "of": 4}, "block": {"shape": [4, 4]}}
Batches = list[tuple[Any, Tensor]]  # Any: a tensor, or tensors by name


@dataclass(frozen=True)
class Check:
    """One thing computed on both devices: the share of weights that differ, or an error."""

    name: str
    differ: float | None
    error: str | None = None


@dataclass(frozen=True)
class Network:
    """A network with calibration data, what of it is left alone, and the patterns that its layers have."""

    name: str
    model: nn.Module
    data: Batches
    excluded: tuple[str, ...]
    patterns: tuple[str, ...]

    def recipe(self, kind: Kind, name: str) -> Json:
        recipe: Json = {
            "target": {"metric": "sparsity", "value": SPARSITY},
            "layers": [{"match": glob, "set": {"exclude": True}} for glob in self.excluded],
            kind: {"name": name, "params": _PARAMS.get(name, {})},
        }
        if name == "bn_scale":  # one a channel
            recipe["pattern"] = {"name": "filter"}
        if name.startswith("movement"):  # has to learn first
            recipe["schedule"] = {"name": "cubic"}
        return recipe


def compare_devices(device: str = "cuda") -> Iterator[Check]:
    """Yield each criterion, pattern, allocation, schedule and removal, on the CPU and on the GPU."""
    for network in (_make_resnet(), _make_bert()):
        for kind in ("criterion", "allocation"):
            for name, entry in entries(kind).items():
                if "training" not in entry.needs and not (name == "bn_scale" and network.name == "BERT"):
                    yield _compare_masks(network, kind, name, device)
        for name in network.patterns:
            yield _compare_masks(network, "pattern", name, device)
        for name in entries("schedule"):
            yield _train(network, "schedule", name, device)
        for name in ("movement", "movement_soft"):
            yield _train(network, "criterion", name, device)
        yield _compare_removals(network, device)


def _compare_masks(network: Network, kind: Kind, plugin: str, device: str) -> Check:
    name = f"{network.name}: {kind} {plugin}"

    def run(on: str) -> MaskSet:
        model, data = copy.deepcopy(network.model).to(on), _move(network.data, on)
        return prune(model, network.recipe(kind, plugin), data, _loss)

    try:
        one, two = run("cpu"), run(device)
    except Exception as error:
        return Check(name, None, f"{type(error).__name__}: {error}")
    if one.kept != two.kept:
        return Check(name, None, f"keeps {one.kept:,} weights on the CPU, {two.kept:,} on the GPU")
    on_cpu = MaskSet({layer: mask.cpu() for layer, mask in two.items()})
    return Check(name, (one ^ on_cpu).kept / one.numel)


def _train(network: Network, kind: Kind, plugin: str, device: str) -> Check:
    """Train on the GPU alone; zeros must stay zeros, at exactly the count that the target asks for."""
    name = f"{network.name}: {kind} {plugin}"
    try:
        trained, batches = copy.deepcopy(network.model).to(device).train(), _move(network.data, device)
        optimizer = torch.optim.SGD(trained.parameters(), lr=0.01, momentum=0.9)
        pruner = Pruner(trained, network.recipe(kind, plugin), batches, _loss, steps=_STEPS)
        pruner.attach(optimizer)
        for step in range(_STEPS):
            inputs, targets = batches[step % len(batches)]
            with torch.autocast(device, dtype=torch.bfloat16):
                loss = _loss(_answer(trained, inputs), targets)
            torch.autograd.backward(loss)
            optimizer.step()
            pruner.step()
            optimizer.zero_grad()
        masks = pruner.finish()
    except Exception as error:
        return Check(name, None, f"{type(error).__name__}: {error}")
    weights = dict(trained.named_parameters())
    left = sum(int((weights[layer][~mask] != 0).sum()) for layer, mask in masks.items())
    pruned = masks.numel - masks.kept
    wanted = round(SPARSITY * masks.numel)
    is_exact = pruned == wanted or name.endswith("movement_soft")  # its threshold is learned
    if left or not is_exact:
        return Check(name, None, f"{pruned:,} pruned of {wanted:,}; {left:,} of them not zero")
    return Check(name, 0.0)


def _compare_removals(network: Network, device: str) -> Check:
    name = f"{network.name}: removal"

    def run(on: str) -> int:
        cut = copy.deepcopy(network.model).to(on)
        parameters = sum(one.numel() for one in cut.parameters())
        target = {"metric": "parameters", "value": int(0.7 * parameters)}
        shrink(cut, {"target": target, "criterion": {"name": "taylor"}}, _move(network.data, on), _loss)
        return sum(one.numel() for one in cut.parameters())

    try:
        one, two = run("cpu"), run(device)
    except Exception as error:
        return Check(name, None, f"{type(error).__name__}: {error}")
    return Check(name, abs(one - two) / one)


def _make_resnet() -> Network:
    torch.manual_seed(0)
    model = build({"library": "secateur", "name": "resnet-20", "params": {}}).module.eval()
    data: Batches = [(torch.randn(32, 3, 32, 32), torch.randint(10, (32,))) for _ in range(4)]
    patterns = ("unstructured", "n_m", "block", "channel", "filter")
    return Network("ResNet-20", model, data, ("conv1", "linear"), patterns)


def _make_bert() -> Network:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=512, hidden_size=128, num_hidden_layers=2, num_attention_heads=4, intermediate_size=512
    )
    data: Batches = []
    for _ in range(4):
        ids = torch.randint(512, (16, 24))
        data.append(({"input_ids": ids, "attention_mask": torch.ones_like(ids)}, torch.randint(2, (16,))))
    excluded = ("*pooler*", "classifier", "*attention*", "*layer.?.output.dense")
    patterns = ("unstructured", "n_m", "block", "neuron")
    return Network("BERT", BertForSequenceClassification(config).eval(), data, excluded, patterns)


def _move(data: Batches, device: str) -> Batches:
    def move(inputs: Any) -> Any:  # Any: as in Batches
        if isinstance(inputs, dict):
            return {name: tensor.to(device) for name, tensor in inputs.items()}
        return inputs.to(device)

    return [(move(inputs), targets.to(device)) for inputs, targets in data]


def _answer(model: nn.Module, inputs: Any) -> Any:  # Any: as in Batches; the answer is the model's
    return model(**inputs) if isinstance(inputs, dict) else model(inputs)


def _loss(answer: Any, targets: Tensor) -> Tensor:  # Any: as above
    return cross_entropy(getattr(answer, "logits", answer).float(), targets)
