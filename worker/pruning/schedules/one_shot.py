"""The one-shot schedule: everything at once."""

from typing import Annotated

from pydantic import Field

from worker.pruning.registry import Plugin, register


@register("schedule", "one_shot", source="Han et al. 2015, arXiv:1506.02626, section 3")
class OneShot(Plugin):
    """Prune everything in one go, at the start unless told otherwise."""

    start_fraction: Annotated[
        float, Field(ge=0.0, le=1.0, description="When, as a share of the time there is to prune in.")
    ] = 0.0

    def fraction(self, progress: float) -> float:
        """Return 0 before the moment and 1 from then on."""
        if not 0.0 <= progress <= 1.0:
            raise ValueError(f"progress is a fraction from 0 to 1, found {progress}")
        return 1.0 if progress >= self.start_fraction else 0.0
