"""Mistral: the code of Llama under other names."""

from worker.pruning.removal.families.llama import declare_decoder
from worker.pruning.removal.families.registry import register

register(declare_decoder("mistral", "Mistral"))
