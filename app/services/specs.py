"""Check a job spec against what exists: the catalog, the model, the dataset; and fill in every default."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.core.catalog import Catalog, Kind
from app.core.config import Device
from app.core.errors import (
    DatasetMismatch,
    ErrorItem,
    InvalidInput,
    InvalidSpec,
    LabelsOutOfRange,
    ModelRejected,
)
from app.core.finetune_defaults import resolve_recovery
from app.core.spec import Choice, JobSpec
from app.core.states import ModelStatus
from app.core.tables import Dataset, JsonObject, Model
from app.services import faults
from app.services.cut_plans import find_target_faults
from app.services.datasets import channels_first
from app.services.layer_rows import find_contradictions, find_row_faults
from app.services.metrics import GATES_ON_ANSWERS, resolve_metrics
from app.services.recipe_bounds import (
    find_recipe_faults,
    find_unsuitable_pattern,
    find_unsuitable_schedule,
)
from app.services.structure_bounds import find_group_faults
from app.services.structures import NEEDS_DATA, list_structure_needs, resolve_structure, tell_unknown

_NEEDS_TRAINING = "training"
_HUGGINGFACE = "huggingface"
_IMAGE_CLASSIFICATION = "image-classification"


@dataclass(frozen=True)
class ResolvedSpec:
    """A spec that can run, with every default in it, and the rows that it speaks of."""

    spec: JobSpec
    model: Model
    dataset: Dataset | None

    @property
    def as_json(self) -> JsonObject:
        return self.spec.model_dump(mode="json")


def read_spec(body: bytes) -> JobSpec:
    """Read the body of a request; raises MalformedJson or InvalidSpec with one item a fault."""
    return faults.read_json(body, JobSpec, InvalidSpec, what="the spec")


def resolve(
    session: Session, spec: JobSpec, catalog: Catalog, *, devices: Sequence[Device] | None = None
) -> ResolvedSpec:
    """Check everything that can be known now; raises InvalidSpec, or the one error that is more specific.

    `devices` are those that workers have, None where that is not known.

    While the model is still being validated, what depends on its layers is checked by the job's load stage.
    """
    # The lock keeps the rows from being deleted before the job that uses them is there.
    model = session.scalar(
        select(Model).where(Model.id == spec.model_id, Model.deleted_at.is_(None)).with_for_update(read=True)
    )
    dataset = None
    if spec.dataset_id is not None:
        query = select(Dataset).where(Dataset.id == spec.dataset_id, Dataset.deleted_at.is_(None))
        dataset = session.scalar(query.with_for_update(read=True))
    spec = resolve_recovery(spec, dataset.task if dataset else None)
    spec, items = _resolve_plugins(spec, catalog)
    items += find_unsuitable_pattern(spec.recipe) + find_unsuitable_schedule(spec.recipe)
    spec, structure_items = resolve_structure(spec, catalog)
    items += structure_items
    items += _find_missing_rows(spec, model, dataset)
    items += _find_unmet_needs(spec, catalog, dataset)
    items += _find_missing_device(spec, devices)
    items += _find_untimed_gates(spec)
    if dataset is not None:
        spec, unknown = resolve_metrics(spec, catalog, dataset)
        items += unknown
    if model is not None:
        spec, output_items = _resolve_outputs(spec, model)
        items += output_items
    if model is not None and model.inspection is not None:
        items += _find_layer_faults(spec, model, model.inspection)
    if items or model is None:
        raise faults.refusal(InvalidSpec, items, what="the spec")
    _refuse_rejected(model)
    _refuse_mismatch(model, dataset)
    return ResolvedSpec(spec, model, dataset)


def _resolve_plugins(spec: JobSpec, catalog: Catalog) -> tuple[JobSpec, list[ErrorItem]]:
    """Check the named plug-ins and fill in the defaults of their parameters."""
    items: list[ErrorItem] = []
    resolved: dict[str, Choice] = {}
    kinds: tuple[Kind, ...] = ("criterion", "pattern", "allocation", "schedule")
    for kind in kinds:
        choice = getattr(spec.recipe, kind)
        known = catalog.plugins(kind)
        at = f"/recipe/{kind}"
        if choice.name not in known:
            detail = f"there is no {kind} {choice.name!r}; there are: {', '.join(sorted(known))}"
            if kind == "criterion":
                detail = tell_unknown(choice.name, known, catalog)
            items.append(ErrorItem(pointer=f"{at}/name", code=f"unknown_{kind}", detail=detail))
            continue
        entry = known[choice.name]
        items += faults.from_schema(entry.params_schema, choice.params, at=f"{at}/params")
        resolved[kind] = choice.model_copy(update={"params": entry.defaults | choice.params})
    targets = [target.name for target in catalog.targets]
    if spec.recipe.target.metric not in targets:
        detail = f"targets of {spec.recipe.target.metric} are not supported; there are: {', '.join(targets)}"
        items.append(ErrorItem(pointer="/recipe/target/metric", code="unknown_target", detail=detail))
    return spec.model_copy(update={"recipe": spec.recipe.model_copy(update=resolved)}), items


def _find_missing_rows(spec: JobSpec, model: Model | None, dataset: Dataset | None) -> list[ErrorItem]:
    items = []
    if model is None:
        detail = f"there is no model {spec.model_id}"
        items.append(ErrorItem(pointer="/model_id", code="model_not_found", detail=detail))
    if spec.dataset_id is not None and dataset is None:
        detail = f"there is no dataset {spec.dataset_id}"
        items.append(ErrorItem(pointer="/dataset_id", code="dataset_not_found", detail=detail))
    return items


def _find_missing_device(spec: JobSpec, devices: Sequence[Device] | None) -> list[ErrorItem]:
    wanted = spec.resources.device
    if devices is None or wanted == "auto" or wanted in devices:
        return []
    detail = f"no worker of this service has the device {wanted!r}: expected auto or {' or '.join(devices)}"
    return [ErrorItem(pointer="/resources/device", code="device_not_there", detail=detail)]


def _find_untimed_gates(spec: JobSpec) -> list[ErrorItem]:
    if spec.evaluation.latency is not None:
        return []
    detail = "a gate on speedup is never evaluated: evaluation.latency is null, so that nothing is timed"
    return [
        ErrorItem(pointer=f"/gates/{i}/metric", code="metric_not_measured", detail=detail)
        for i, gate in enumerate(spec.gates)
        if gate.metric == "speedup"
    ]


def _find_unmet_needs(spec: JobSpec, catalog: Catalog, dataset: Dataset | None) -> list[ErrorItem]:
    """Find what the spec asks for without giving what it needs: a dataset, a train split, training."""
    wants_data: list[tuple[str, str]] = []
    kinds: tuple[Kind, ...] = ("criterion", "allocation", "schedule")
    items = []
    for kind in kinds:
        name = getattr(spec.recipe, kind).name
        entry = catalog.plugins(kind).get(name)
        needs = NEEDS_DATA.intersection(entry.needs) if entry else frozenset()
        if needs:
            wants_data.append((f"/recipe/{kind}/name", f"{kind} {name} needs {', '.join(sorted(needs))}"))
        if _NEEDS_TRAINING in needs and spec.finetune is None:
            detail = f"{kind} {name} prunes while training: give finetune"
            items.append(ErrorItem(pointer="/finetune", code="finetune_required", detail=detail))
    if spec.finetune is not None:
        wants_data.append(("/finetune", "fine-tuning needs training data"))
    wants_data += list_structure_needs(spec, catalog)
    if dataset is not None:
        return items + _find_missing_split(wants_data, dataset) + _find_missing_judge(spec, dataset)
    wants_data += [
        (f"/gates/{i}/metric", f"a gate on {gate.metric} needs an evaluation")
        for i, gate in enumerate(spec.gates)
        if gate.metric in GATES_ON_ANSWERS
    ]
    wants_data += [
        (f"/evaluation/metrics/{i}", f"measuring {name} needs answers to compare")
        for i, name in enumerate(spec.evaluation.metrics)
    ]
    if spec.dataset_id is not None:  # it is named but not there: said already
        return items
    return items + [
        ErrorItem(pointer=at, code="dataset_required", detail=f"{why}: give dataset_id")
        for at, why in wants_data
    ]


def _find_missing_split(wants_data: list[tuple[str, str]], dataset: Dataset) -> list[ErrorItem]:
    if "train" in dataset.splits:
        return []
    found = ", ".join(dataset.splits)
    return [
        ErrorItem(pointer=at, code="train_split_required", detail=f"{why}: {dataset.id} has only {found}")
        for at, why in wants_data
    ]


def _find_missing_judge(spec: JobSpec, dataset: Dataset) -> list[ErrorItem]:
    if spec.finetune is None or spec.finetune.early_stopping is None or "validation" in dataset.splits:
        return []
    detail = (
        f"early stopping is judged on the split validation: {dataset.id} has only {', '.join(dataset.splits)}"
    )
    return [ErrorItem(pointer="/finetune/early_stopping", code="validation_split_required", detail=detail)]


def _find_layer_faults(spec: JobSpec, model: Model, inspection: JsonObject) -> list[ErrorItem]:
    layers = inspection["layers"]
    items = find_row_faults(spec.recipe.layers, layers) or find_contradictions(spec.recipe.layers, layers)
    if spec.structure is None:
        return items or find_recipe_faults(spec.recipe, layers)
    # What the cut leaves to be pruned is not known yet.
    at, rows = "/structure/layers", spec.structure.layers
    cut_items = find_row_faults(rows, layers, at=at) or find_contradictions(rows, layers, at=at)
    cut_items = cut_items or find_group_faults(spec.structure, inspection)
    return items + (cut_items or find_target_faults(spec.structure, model))


def _refuse_rejected(model: Model) -> None:
    if model.status == ModelStatus.REJECTED:
        reason = (model.rejection or {}).get("detail", "")
        detail = f"{model.id} was rejected: {reason}"
        raise ModelRejected(
            detail, errors=(ErrorItem(pointer="/model_id", code=ModelRejected.code, detail=detail),)
        )


def _resolve_outputs(spec: JobSpec, model: Model) -> tuple[JobSpec, list[ErrorItem]]:
    """Fill in the outputs by the model's format, or find those that it cannot have."""
    if model.format == _HUGGINGFACE:
        if "outputs" not in spec.model_fields_set:
            spec = spec.model_copy(update={"outputs": (_HUGGINGFACE, *spec.outputs)})
        return spec, []
    detail = f"a {model.format} model cannot be written as {_HUGGINGFACE}: it has no config.json"
    return spec, [
        ErrorItem(pointer=f"/outputs/{i}", code="output_unavailable", detail=detail)
        for i, output in enumerate(spec.outputs)
        if output == _HUGGINGFACE
    ]


def _refuse_mismatch(model: Model, dataset: Dataset | None) -> None:
    """Refuse a dataset that a ready model cannot read: another task, image shape, classes, odd labels."""
    if dataset is None or model.input_signature is None:
        return
    tasks = model.input_signature.get("tasks", [_IMAGE_CLASSIFICATION])
    if dataset.task not in tasks:
        raise _mismatch(
            DatasetMismatch, f"the dataset is for {dataset.task}, the model can serve {', '.join(tasks)}"
        )
    takes, classes = model.input_signature["shape"], model.input_signature["classes"]
    is_text = model.input_signature.get("kind") == "text"
    for name, split in dataset.splits.items():
        if (split["shape"] is None) != is_text:
            held, taken = ("images", "text") if is_text else ("text", "images")
            raise _mismatch(DatasetMismatch, f"split {name} holds {held}, the model takes {taken}")
        shape = None if is_text else channels_first(split["shape"], dataset.manifest.get("layout"))
        if shape is not None and shape != takes:
            raise _mismatch(
                DatasetMismatch,
                f"split {name} holds images of {shape} [channels, height, width], the model takes {takes}",
            )
        if dataset.task.endswith("classification"):
            _refuse_labels(name, split, classes)


def _refuse_labels(
    name: str,
    split: dict[str, Any],  # Any: a split's facts, as JSON
    classes: int,
) -> None:
    if split["label_max"] is None or split["label_max"] < classes:
        return
    if split["classes"] is not None:
        raise _mismatch(
            DatasetMismatch, f"split {name} has {split['classes']} classes, the model tells {classes} apart"
        )
    raise _mismatch(
        LabelsOutOfRange,
        f"split {name} has the label {split['label_max']}; the model's go from 0 to {classes - 1}",
    )


def _mismatch(error: type[DatasetMismatch | LabelsOutOfRange], detail: str) -> InvalidInput:
    return error(detail, errors=(ErrorItem(pointer="/dataset_id", code=error.code, detail=detail),))
