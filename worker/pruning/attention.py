"""Find the attention modules of a transformer by the names of their projections, and count their heads."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from worker.pruning.layers import Layer

# (query, key, value, output) below a common prefix, as the families of transformers name them.
_NAMINGS = (
    ("self.query", "self.key", "self.value", "output.dense"),  # BERT, RoBERTa, ELECTRA
    ("attention.query", "attention.key", "attention.value", "output.dense"),  # ViT, DeiT
    ("q_lin", "k_lin", "v_lin", "out_lin"),  # DistilBERT
    ("q_proj", "k_proj", "v_proj", "o_proj"),  # Llama, Mistral, Qwen
    ("q_proj", "k_proj", "v_proj", "out_proj"),  # BART, OPT, CLIP, Whisper
    ("q", "k", "v", "o"),  # T5
    ("query", "key", "value", "out"),
)
_HEADS = ("num_attention_heads", "num_heads", "n_heads", "n_head", "nhead", "heads")
_KEY_HEADS = ("num_key_value_heads", "num_kv_heads")


@dataclass(frozen=True)
class Attention:
    """One attention module: its projections, and how many heads have keys of their own.

    Queries that share a key head are one group with it, so that the grouping of queries stays even.
    """

    name: str
    query: Layer
    key: Layer
    value: Layer
    output: Layer
    heads: int

    @property
    def layers(self) -> tuple[Layer, ...]:
        return (self.query, self.key, self.value, self.output)


def find_attentions(
    model: nn.Module, layers: Sequence[Layer], num_heads: int | None
) -> tuple[list[Attention], dict[str, str]]:
    """Return the attention modules, and for every other layer by name why it is part of none."""
    by_module = {layer.module_name: layer for layer in layers}
    found: list[Attention] = []
    why_not = {
        layer.name: "is no query, key, value or output of an attention whose four projections can be pruned"
        for layer in layers
    }
    for prefix, projections in _complete(by_module):
        heads = num_heads or _count_heads(model, projections[0].module_name)
        reason = _judge(projections, heads)
        if reason is None and heads is not None:
            found.append(Attention(prefix, *projections, heads=heads))
        for layer in projections:
            if reason is None:
                why_not.pop(layer.name, None)
            else:
                why_not[layer.name] = reason
    return found, why_not


def _complete(by_module: Mapping[str, Layer]) -> Iterator[tuple[str, tuple[Layer, Layer, Layer, Layer]]]:
    for module_name in by_module:
        for query, *others in _NAMINGS:
            prefix = module_name.removesuffix(query)
            if prefix + query != module_name or (prefix and not prefix.endswith(".")):
                continue
            names = [module_name, *(prefix + other for other in others)]
            if all(name in by_module for name in names):
                first, second, third, fourth = (by_module[name] for name in names)
                yield prefix.rstrip("."), (first, second, third, fourth)
                break


def _count_heads(model: nn.Module, query_name: str) -> int | None:
    """Ask the modules around the query, from the nearest to the model, and their configurations."""
    path = query_name.split(".")[:-1]
    for length in range(len(path), -1, -1):
        module = model.get_submodule(".".join(path[:length]))
        for holder in (module, getattr(module, "config", None)):
            for names in (_KEY_HEADS, _HEADS):
                for name in names:
                    heads = getattr(holder, name, None)
                    if isinstance(heads, int):
                        return heads
    return None


def _judge(projections: Sequence[Layer], heads: int | None) -> str | None:
    if heads is None:
        return "the number of heads is not known: give num_heads"
    *inner, output = projections
    for layer in inner:
        if layer.output_first_shape[0] % heads:
            return f"{layer.name} has {layer.output_first_shape[0]} outputs, no multiple of {heads} heads"
    if output.output_first_shape[1] % heads:
        return f"{output.name} has {output.output_first_shape[1]} inputs, no multiple of {heads} heads"
    return None
