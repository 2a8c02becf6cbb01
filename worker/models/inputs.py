"""What a network takes: the form of its inputs, blank samples of it, and how to call the network."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from pydantic import JsonValue
from torch import Tensor, nn

from worker.pruning.statistics.calibration import logits_of

# One tensor, or several by name as the models of transformers take them.
Inputs = Tensor | Mapping[str, Tensor]

_SAMPLES = 2
_TOKENS = 16


@dataclass(frozen=True)
class ImageInput:
    """Images [n, channels, height, width] float32; `shape` is that of one."""

    shape: tuple[int, int, int]

    def blank(self, n: int, device: torch.device | str = "cpu") -> Inputs:
        """Return n black images."""
        # Channels last, as the data comes: one CPU thread is 40 % faster with it.
        return torch.zeros(n, *self.shape, device=device).contiguous(memory_format=torch.channels_last)

    def describe(self) -> dict[str, JsonValue]:
        """Say it for a client."""
        return {"kind": "image", "shape": list(self.shape), "dtype": "float32"}


@dataclass(frozen=True)
class TextInput:
    """Token ids [n, t] int64 below `vocabulary`, at most `max_tokens`; `names` is what is passed.

    `types` is how many token types the network tells apart, where it takes them. `blank_tokens` is the length
    that costs are measured at: a model that takes a book is seldom given one.
    """

    max_tokens: int
    vocabulary: int
    names: tuple[str, ...] = ("input_ids", "attention_mask")
    types: int = 0
    blank_tokens: int = 128

    def blank(self, n: int, device: torch.device | str = "cpu") -> Inputs:
        """Return n texts of `blank_tokens` times the token 0, if so many are taken, none of it padding."""
        length = min(self.blank_tokens, self.max_tokens)
        zeros = torch.zeros(n, length, dtype=torch.int64, device=device)
        return {name: torch.ones_like(zeros) if name == "attention_mask" else zeros for name in self.names}

    def describe(self) -> dict[str, JsonValue]:
        """Say it for a client."""
        return {
            "kind": "text",
            "shape": [self.max_tokens],
            "dtype": "int64",
            "vocabulary": self.vocabulary,
            "measured_tokens": min(self.blank_tokens, self.max_tokens),
        }


def draw_inputs(form: ImageInput | TextInput, device: torch.device) -> Inputs:
    """Draw two samples, short ones of text: blank ones would hide faults."""
    generator = torch.Generator().manual_seed(0)
    blank = form.blank(_SAMPLES, device)
    if isinstance(form, ImageInput):
        assert isinstance(blank, Tensor)
        return torch.randn(blank.shape, generator=generator).to(device)
    assert isinstance(blank, Mapping)
    short = {name: tensor[:, :_TOKENS] for name, tensor in blank.items()}
    tokens = torch.randint(0, form.vocabulary, short["input_ids"].shape, generator=generator)
    return {**short, "input_ids": tokens.to(device)}


def compute_logits(module: nn.Module, inputs: Inputs) -> Tensor:
    """Run a network of any input form; returns its logits [n, …]."""
    return logits_of(module(**inputs) if isinstance(inputs, Mapping) else module(inputs))


def move(inputs: Inputs, device: torch.device) -> Inputs:
    """Return the inputs on a device."""
    if isinstance(inputs, Mapping):
        return {name: tensor.to(device) for name, tensor in inputs.items()}
    return inputs.to(device)


def leaves(inputs: Inputs) -> tuple[Tensor, ...]:
    """Return every tensor of the inputs."""
    return tuple(inputs.values()) if isinstance(inputs, Mapping) else (inputs,)
