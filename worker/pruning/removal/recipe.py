"""What to cut out of a model and how far: the part of a recipe that is about structure."""

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from worker.pruning.recipe import Choice, Fraction, InvalidRecipe, LayerRow, Strict, Target

Kind = Literal["channel", "neuron", "head", "query", "block"]
Ranking = Literal["global", "local", "isomorphic", "uniform"]
# A query of every key goes only where it is asked for: a key with all of its queries leaves less behind.
KINDS: tuple[Kind, ...] = ("channel", "neuron", "head")


class Structure(Strict):
    """Units of these `kinds` go, the least important first, until the `target` is met.

    `ranking` says who competes: units of the whole model by their share of their group's mean (global), units
    of each group by themselves (local), those of groups of one make (isomorphic, Fang et al. 2024,
    arXiv:2407.04616), or nobody, as all groups of one make keep one size (uniform). What layers put out is
    kept at a multiple of `multiple_of`, where any of it goes. No group loses more than `max_fraction` unless
    a row of `layers` asks for it. In several `rounds` the rest is scored anew. Whole blocks go alone: `kinds`
    ["block"].
    """

    criterion: Choice = Choice(name="magnitude", params={"p": 2.0})
    aggregation: Literal["mean", "sum"] = "mean"
    ranking: Ranking = "isomorphic"
    kinds: tuple[Kind, ...] = Field(default=KINDS, min_length=1, max_length=4)
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

    @property
    def cuts_blocks(self) -> bool:
        return "block" in self.kinds

    @model_validator(mode="after")
    def _blocks_go_alone(self) -> "Structure":
        if not self.cuts_blocks:
            return self
        if set(self.kinds) != {"block"}:
            raise ValueError(
                f"whole blocks go alone: expected kinds ['block'], found {list(self.kinds)}; what is within "
                "blocks is for a second job, on the model that the first one leaves"
            )
        if self.multiple_of != 1:
            raise ValueError(
                f"whole blocks leave the sizes within: expected multiple_of 1, found {self.multiple_of}"
            )
        if any(row.set.exclude is None for row in self.layers):
            raise ValueError(
                "a block stays or goes as a whole: expected rows that set exclude, found one with a "
                "sparsity; max_fraction says how many may go"
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
