"""`make bench-removal`: masked against removed over networks of every kind, half of every group cut out.

Each network has a process of its own and sixty seconds. Weights are random, drawn so that outputs matter: the
dense outputs must differ from the cut ones, or the comparison would say nothing.
"""

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from pydantic import JsonValue
from rich.console import Console
from rich.table import Table
from torch import nn

from worker.models.registry import build
from worker.pruning.removal import compare, find_groups, masked, plan_removal, prove, remove

LIMIT_S = 60.0
TOLERANCE = 1e-5
_IMAGES: Mapping[str, int] = {
    **{f"resnet-{depth}": 32 for depth in (20, 56)},
    **{f"resnet-{depth}": 64 for depth in (18, 50)},
    **dict.fromkeys(("vgg-16-bn", "mobilenet-v2", "densenet-121", "efficientnet-b0"), 64),
}
_TEXT = {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 512}
_GROUPED = {**_TEXT, "num_key_value_heads": 2, "head_dim": 32}
_CONFIGS: Mapping[str, tuple[str, str, Mapping[str, Any]]] = {  # Any: fields of configs
    "bert": ("BertConfig", "BertForSequenceClassification", _TEXT),
    "roberta": ("RobertaConfig", "RobertaForSequenceClassification", _TEXT),
    "distilbert": (
        "DistilBertConfig",
        "DistilBertForSequenceClassification",
        {"dim": 128, "n_layers": 4, "n_heads": 4, "hidden_dim": 512},
    ),
    "vit": ("ViTConfig", "ViTForImageClassification", {**_TEXT, "image_size": 32, "patch_size": 8}),
    "gpt2": ("GPT2Config", "GPT2LMHeadModel", {"n_embd": 128, "n_layer": 4, "n_head": 4}),
    "llama, grouped queries": ("LlamaConfig", "LlamaForCausalLM", _GROUPED),
    "mistral, grouped queries": ("MistralConfig", "MistralForCausalLM", _GROUPED),
    "qwen2, grouped queries": ("Qwen2Config", "Qwen2ForCausalLM", _GROUPED),
    "qwen3, grouped queries": ("Qwen3Config", "Qwen3ForCausalLM", _GROUPED),
    "t5": (
        "T5Config",
        "T5ForConditionalGeneration",
        {"d_model": 128, "d_kv": 32, "d_ff": 512, "num_layers": 4},
    ),
}


@dataclass(frozen=True)
class Found:
    """What came of one network: seconds, groups, parameters, and the differences of outputs."""

    seconds: float
    groups: int
    removable: int
    before: int
    after: int
    difference: float
    from_dense: float


def main() -> int:
    """Print the table; returns 1 when a network hangs, fails or differs."""
    console, table = Console(width=110), Table(title="Half of every group cut out; masked against removed")
    for head in ("network", "seconds", "groups cut", "parameters", "left", "difference", "from the dense"):
        table.add_column(head, justify="left" if head == "network" else "right")
    failed = []
    for name in (*_IMAGES, *_CONFIGS):
        found = _run(name)
        if isinstance(found, str):
            failed.append(f"{name}: {found}")
            continue
        table.add_row(
            name,
            f"{found.seconds:.1f}",
            f"{found.removable} of {found.groups}",
            f"{found.before:,}",
            f"{found.after / found.before:.1%}",
            f"{found.difference:.1e}",
            f"{found.from_dense:.2f}",
        )
        if found.difference > TOLERANCE or found.from_dense < 100 * TOLERANCE:
            failed.append(
                f"{name}: differs by {found.difference:.1e}, from the dense by {found.from_dense:.1e}"
            )
    console.print(table)
    for line in failed:
        console.print(f"MISSED {line}")
    return 1 if failed else 0


def _run(name: str) -> Found | str:
    command = [sys.executable, "-m", "benchmarks.removal", name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        return f"did not end within {LIMIT_S:g} s"
    if done.returncode:
        return done.stderr.strip().rpartition("\n")[2]
    return Found(**json.loads(done.stdout.splitlines()[-1]))


def measure(name: str) -> Found:
    """Trace, prove, compare and cut one network in this process, on one thread."""
    torch.set_num_threads(1)
    model, inputs = _make(name)
    _draw_weights(model)

    def run(one: nn.Module) -> object:
        return one(**inputs) if isinstance(inputs, dict) else one(inputs)

    before = sum(parameter.numel() for parameter in model.parameters())
    start = time.perf_counter()
    found = find_groups(model, **inputs) if isinstance(inputs, dict) else find_groups(model, inputs)
    groups = prove(model, found, run)
    generator = torch.Generator().manual_seed(0)
    kept = {}
    for group in groups:
        if group.is_removable:
            gone = torch.randperm(group.units, generator=generator)[: group.units // 2]
            kept[group.name] = torch.ones(group.units, dtype=torch.bool).index_fill(0, gone, False)
    removal = plan_removal(model, groups, kept)
    difference = compare(model, removal, run)
    with torch.no_grad():
        dense = _logits(run(model))
        with masked(model, removal):
            expected = _logits(run(model))
    remove(model, removal)
    return Found(
        seconds=time.perf_counter() - start,
        groups=len(groups),
        removable=len(kept),
        before=before,
        after=sum(parameter.numel() for parameter in model.parameters()),
        difference=difference,
        from_dense=float((dense - expected).abs().max() / dense.abs().max()),
    )


def _make(name: str) -> tuple[nn.Module, Any]:  # Any: a tensor or tensors by name
    generator = torch.Generator().manual_seed(1)
    if name in _IMAGES:
        size = _IMAGES[name]
        params: dict[str, JsonValue] = {"image_size": size} if size > 32 else {}
        model = build({"name": name, "params": params}).module
        return model, torch.randn(2, 3, size, size, generator=generator)
    return _make_transformer(name, generator)


def _make_transformer(name: str, generator: torch.Generator) -> tuple[nn.Module, Any]:  # Any: as in _make
    import transformers  # noqa: PLC0415 - networks of images do without, and it takes seconds

    config_name, model_name, fields = _CONFIGS[name]
    extra = {} if name == "vit" else {"vocab_size": 1000}
    config = getattr(transformers, config_name)(**fields, **extra)
    model = getattr(transformers, model_name)(config).eval()
    if name == "vit":
        return model, {"pixel_values": torch.randn(2, 3, 32, 32, generator=generator)}
    ids = torch.randint(2, 1000, (2, 16), generator=generator)
    if name == "t5":
        return model, {"input_ids": ids, "decoder_input_ids": ids[:, :9], "use_cache": False}
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}  # Any: a flag too
    return model, inputs if "ForSequence" in model_name else {**inputs, "use_cache": False}


@torch.no_grad()
def _draw_weights(model: nn.Module) -> None:
    generator = torch.Generator().manual_seed(2)
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if not tensor.is_floating_point() or "inv_freq" in name:
            continue
        if tensor.ndim > 1:
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * (1.0 / tensor[0].numel()) ** 0.5)
        elif name.endswith(("running_var", "weight")):
            tensor.copy_(torch.rand(tensor.shape, generator=generator) * 0.5 + 0.75)


def _logits(outputs: Any) -> torch.Tensor:  # Any: whatever the model returns
    found: torch.Tensor = getattr(outputs, "logits", outputs)
    return found.clone()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(asdict(measure(sys.argv[1]))))
    else:
        sys.exit(main())
