"""The learning rate of every step: a warm-up, then the decay that was asked for."""

import math

from app.core.finetune import Finetune


def compute_rate(step: int, total: int, settings: Finetune) -> float:
    """Return the learning rate of `step` (from 0): a linear warm-up, then the decay down to zero.

    The cosine is that of Loshchilov and Hutter 2017 (SGDR), equation 5, with one period.
    """
    warmup = round(settings.warmup_fraction * total)
    if step < warmup:
        return settings.learning_rate * ((step + 1) / warmup)
    done = (step - warmup) / max(1, total - warmup)
    match settings.decay:
        case "cosine":
            return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * done))
        case "linear":
            return settings.learning_rate * (1 - done)
        case "constant":
            return settings.learning_rate
