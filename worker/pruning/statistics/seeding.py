"""Random generators that depend on a seed and on names alone, so that the order of layers is irrelevant."""

import hashlib

import torch


def generator_for(seed: int, *labels: str | int) -> torch.Generator:
    """Make a CPU generator for one purpose; equal seed and labels give equal numbers on every machine."""
    text = "\x1f".join(str(part) for part in (seed, *labels))
    digest = hashlib.sha256(text.encode()).digest()
    return torch.Generator(device="cpu").manual_seed(int.from_bytes(digest[:8], "big") >> 1)
