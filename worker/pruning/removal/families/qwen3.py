"""Qwen3: the code of Llama under other names, and a kind of attention for each layer."""

from worker.pruning.removal.families.llama import declare_decoder
from worker.pruning.removal.families.registry import register

register(declare_decoder("qwen3", "Qwen3", listed=("layer_types",)))
