"""Faults of those who receive webhooks; that they refuse some of them needs no fault, it is their habit."""

import random

from tests.chaos.faults import fault
from tests.chaos.site import Site


@fault("F23", weight=1)
def hang_receiver(site: Site, rng: random.Random) -> str | None:
    if site.hooks is None:
        return None
    for_s = rng.uniform(2.0, 8.0)
    site.hooks.hang(for_s)
    return f"for {for_s:.1f} s"
