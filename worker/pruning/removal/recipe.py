"""What to cut out of a model and how far: the part of a recipe that is about structure."""

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from worker.pruning.recipe import Choice, Fraction, InvalidRecipe, LayerRow, Strict, Target

Kind = Literal["channel", "neuron", "head"]
Ranking = Literal["global", "local", "isomorphic", "uniform"]
KINDS: tuple[Kind, ...] = ("channel", "neuron", "head")


class Structure(Strict):
    """Units of these `kinds` go, the least important first, until the `target` is met.

    `ranking` says who competes: units of the whole model by their share of their group's mean (global), units
    of each group by themselves (local), those of groups of one make (isomorphic, Fang et al. 2024,
    arXiv:2407.04616), or nobody, as all groups of one make keep one size (uniform). Sizes are kept at a
    multiple of `multiple_of`, where that leaves the target reachable. No group loses more than
    `max_fraction`. In several `rounds` the rest is scored anew.
    """

    criterion: Choice = Choice(name="magnitude", params={"p": 2.0})
    aggregation: Literal["mean", "sum"] = "mean"
    ranking: Ranking = "isomorphic"
    kinds: tuple[Kind, ...] = Field(default=KINDS, min_length=1, max_length=3)
    target: Target
    rounds: Annotated[int, Field(ge=1, le=100)] = 1
    multiple_of: Annotated[int, Field(ge=1, le=1024)] = 1
    max_fraction: Fraction = 0.9
    layers: tuple[LayerRow, ...] = Field(default=(), max_length=1000)

    @model_validator(mode="after")
    def _target_is_a_size(self) -> "Structure":
        if self.target.metric == "sparsity":
            raise ValueError(
                "units are cut out, which leaves no zeros: give a target of parameters, macs, size_bytes, "
                "latency_ms or accuracy_drop"
            )
        return self


def read_structure(structure: "Structure | Mapping[str, Any]") -> Structure:  # Any: JSON, checked here
    """Check a structure given as a mapping; raise InvalidRecipe naming each fault."""
    if isinstance(structure, Structure):
        return structure
    try:
        return Structure.model_validate_json(json.dumps(dict(structure)))
    except (ValidationError, TypeError) as error:
        raise InvalidRecipe(f"the structure is not valid: {error}") from error
