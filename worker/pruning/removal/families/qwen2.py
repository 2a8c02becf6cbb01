"""Qwen2: the code of Llama under other names, and a kind of attention for each layer."""

from worker.pruning.removal.families.llama import declare_decoder
from worker.pruning.removal.families.registry import register

register(declare_decoder("qwen2", "Qwen2", listed=("layer_types",)))
