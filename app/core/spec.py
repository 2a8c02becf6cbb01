"""The job spec of the contract: what a client may ask for, with every default."""

from typing import Annotated, Literal

from pydantic import (
    Field,
    JsonValue,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from app.core.callbacks import Callback
from app.core.finetune import Finetune
from app.core.states import Stage
from app.core.strict import Fraction, NotNegative, Strict


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

    @field_validator("value", mode="after")
    @classmethod
    def _sparsity_is_a_fraction(cls, value: float, info: ValidationInfo) -> float:
        if info.data.get("metric") == "sparsity" and value > 1.0:
            raise ValueError(f"a sparsity is a fraction from 0 to 1, found {value}")
        return value


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


class Latency(Strict):
    runtime: Literal["torch"] = "torch"
    device: Literal["cpu", "cuda"] = "cpu"
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 1
    repeats: Annotated[int, Field(ge=10, le=10_000)] = 100


MetricName = Literal["accuracy", "f1", "mcc", "perplexity", "mse"]


class Evaluation(Strict):
    """What is measured of the finished model; no `metrics` means all that the dataset's task has."""

    metrics: tuple[MetricName, ...] = Field(default=(), max_length=16)
    batch_size: Annotated[int, Field(ge=1, le=65_536)] = 256
    latency: Latency | None = Latency()

    @field_validator("metrics", mode="after")
    @classmethod
    def _names_each_once(cls, value: tuple[MetricName, ...]) -> tuple[MetricName, ...]:
        if len(set(value)) < len(value):
            raise ValueError(f"name each metric once, found {', '.join(value)}")
        return value


# A drop is baseline - final: a perplexity or an error that grew has a negative one.
GateMetric = Literal[
    "accuracy",
    "accuracy_drop",
    "f1",
    "f1_drop",
    "mcc",
    "mcc_drop",
    "perplexity",
    "perplexity_drop",
    "mse",
    "mse_drop",
    "worst_class_drop",
    "sparsity",
    "size_bytes",
    "compressed_bytes",
    "macs",
    "speedup",
]


class Gate(Strict):
    """A condition on the finished report; `error` fails the gate, `warn` only warns."""

    metric: GateMetric
    op: Literal["<=", ">=", "<", ">"]
    value: Annotated[float, Field(allow_inf_nan=False)]
    level: Literal["error", "warn"] = "error"


class Resources(Strict):
    device: Literal["auto", "cpu", "cuda"] = "auto"
    timeout_s: Annotated[int, Field(ge=1, le=2_592_000)] = 86_400
    max_attempts: Annotated[int, Field(ge=1, le=20)] = 3
    priority: Annotated[
        int, Field(ge=-100, le=100, description="Jobs of a higher priority are taken first.")
    ] = 0
    checkpoint_s: Annotated[
        float,
        Field(
            ge=0.0,
            allow_inf_nan=False,
            description="Seconds between checkpoints of a fine-tune: what a kill can cost at most; "
            "0 writes one after every step.",
        ),
    ] = 60.0


Labels = dict[
    Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")],
    Annotated[str, Field(max_length=255)],
]


Output = Literal["safetensors", "huggingface", "pt2", "masks"]


class _NoRecipe(Recipe):
    """Stands for a recipe that was not given: pydantic copies defaults, so only the class tells."""


_ZEROES_NOTHING = _NoRecipe(target=Target(metric="sparsity", value=0.0))


class JobSpec(Strict):
    """What `POST /v1/jobs` takes. Every default is echoed in `resolved_spec`.

    First `structure` cuts units out, then `recipe` zeroes weights of what is left; one of them is needed.
    """

    model_id: str = Field(pattern=r"^mdl_[0-9a-z]{26}$")
    dataset_id: str | None = Field(default=None, pattern=r"^dst_[0-9a-z]{26}$")
    name: str | None = Field(default=None, max_length=200)
    labels: Labels = Field(default_factory=dict, max_length=50)
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] = 0
    structure: Structure | None = None
    recipe: Recipe = Field(default=_ZEROES_NOTHING, validate_default=True)
    finetune: Finetune | None = None
    evaluation: Evaluation = Evaluation()
    gates: tuple[Gate, ...] = Field(default=(), max_length=100)
    # A huggingface model's default has `huggingface` first: the whole folder, as from_pretrained reads it.
    outputs: tuple[Output, ...] = Field(default=("safetensors", "masks"), max_length=16)
    resources: Resources = Resources()
    callbacks: tuple[Callback, ...] = Field(default=(), max_length=10)

    @field_validator("recipe", mode="after")
    @classmethod
    def _is_given_without_structure(cls, value: Recipe, info: ValidationInfo) -> Recipe:
        if not isinstance(value, _NoRecipe):
            return value
        if info.data.get("structure") is None:
            raise PydanticCustomError("missing", "Field required")
        return Recipe(target=value.target)


STAGES = tuple(Stage)
