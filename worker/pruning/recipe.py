"""The recipe of the contract, the same as in the job spec, written again so that the library stands alone."""

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from worker.pruning.errors import PruningError

Fraction = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]


class InvalidRecipe(PruningError, ValueError):
    """The recipe breaks its schema; the message names every field at fault."""


class Strict(BaseModel):
    """Data that crosses a boundary: frozen, no unknown fields, no coercion of types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Choice(Strict):
    """A registered plug-in by name, and its parameters (checked against the catalog)."""

    name: str = Field(min_length=1, max_length=64)
    params: dict[str, JsonValue] = Field(default_factory=dict)


class Target(Strict):
    """How far to prune: a fraction for `sparsity`, otherwise the size that must not be exceeded."""

    metric: Literal["sparsity", "parameters", "macs", "size_bytes", "latency_ms", "accuracy_drop"] = (
        "sparsity"
    )
    value: NotNegative

    @model_validator(mode="after")
    def _sparsity_is_a_fraction(self) -> "Target":
        if self.metric == "sparsity" and self.value > 1.0:
            raise ValueError(f"a sparsity is a fraction from 0 to 1, found {self.value}")
        return self


class LayerSetting(Strict):
    exclude: bool | None = None
    sparsity: Fraction | None = None
    min_sparsity: Fraction | None = None
    max_sparsity: Fraction | None = None

    @model_validator(mode="after")
    def _does_not_contradict_itself(self) -> "LayerSetting":
        # Not what was written but what is not null: a resolved spec spells every default out.
        given = [value for value in vars(self).values() if value is not None]
        if not given:
            raise ValueError("set at least one of exclude, sparsity, min_sparsity, max_sparsity")
        if self.exclude and len(given) > 1:
            raise ValueError("an excluded layer cannot have a sparsity too")
        if self.sparsity is not None and (self.min_sparsity is not None or self.max_sparsity is not None):
            raise ValueError("a fixed sparsity leaves no room for a minimum or a maximum")
        low, high = self.min_sparsity, self.max_sparsity
        if low is not None and high is not None and low > high:
            raise ValueError(f"min_sparsity {low} is over max_sparsity {high}")
        return self


class LayerRow(Strict):
    """One row of the ordered list: layers whose name matches the glob get these settings; later rows win."""

    match: str = Field(min_length=1, max_length=256)
    set: LayerSetting


class Recipe(Strict):
    criterion: Choice = Choice(name="magnitude")
    pattern: Choice = Choice(name="unstructured")
    allocation: Choice = Choice(name="global")
    target: Target
    schedule: Choice = Choice(name="one_shot")
    layers: tuple[LayerRow, ...] = Field(default=(), max_length=1000)


def read_recipe(recipe: "Recipe | Mapping[str, Any]") -> Recipe:  # Any: JSON, checked here
    """Check a recipe given as a mapping; raise InvalidRecipe naming each fault."""
    if isinstance(recipe, Recipe):
        return recipe
    try:
        # By way of JSON, since that is what a recipe is: a list is a list, a string is never a number.
        return Recipe.model_validate_json(json.dumps(dict(recipe)))
    except (ValidationError, TypeError) as error:
        raise InvalidRecipe(f"the recipe is not valid: {error}") from error
