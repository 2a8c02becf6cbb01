"""Check what a spec asks of a model's structure against the catalog, and fill in every default."""

from collections.abc import Collection

from app.core.catalog import Catalog, Entry
from app.core.errors import ErrorItem
from app.core.spec import JobSpec, Structure
from app.services import faults

NEEDS_DATA = frozenset({"gradients", "activations", "training"})
_NEEDS_TRAINING = "training"


def resolve_structure(spec: JobSpec, catalog: Catalog) -> tuple[JobSpec, list[ErrorItem]]:
    """Check the criterion and the target of the structure; fill in the criterion's parameters."""
    structure = spec.structure
    if structure is None:
        return spec, []
    items = _find_block_faults(spec)
    known = _list_criteria(structure, catalog)
    entry = known.get(structure.criterion.name)
    at = "/structure/criterion"
    if entry is None:
        detail = tell_unknown(structure.criterion.name, known, catalog)
        items.append(ErrorItem(pointer=f"{at}/name", code="unknown_criterion", detail=detail))
    else:
        items += faults.from_schema(entry.params_schema, structure.criterion.params, at=f"{at}/params")
        if _NEEDS_TRAINING in entry.needs:
            detail = f"{structure.criterion.name} learns while training, and what is cut out cannot come back"
            items.append(ErrorItem(pointer=f"{at}/name", code="criterion_unavailable", detail=detail))
        params = entry.defaults | structure.criterion.params
        criterion = structure.criterion.model_copy(update={"params": params})
        spec = spec.model_copy(update={"structure": structure.model_copy(update={"criterion": criterion})})
    if structure.target.metric == "latency_ms" and spec.evaluation.latency is None:
        detail = "a target of latency_ms is measured as evaluation.latency says, which is null"
        items.append(ErrorItem(pointer="/evaluation/latency", code="latency_required", detail=detail))
    return spec, items


def list_structure_needs(spec: JobSpec, catalog: Catalog) -> list[tuple[str, str]]:
    """List what of the structure needs a dataset, as (pointer, reason)."""
    structure = spec.structure
    if structure is None:
        return []
    needs = []
    name = structure.criterion.name
    entry = _list_criteria(structure, catalog).get(name)
    wanted = NEEDS_DATA.intersection(entry.needs) if entry else frozenset()
    if wanted:
        needs.append(("/structure/criterion/name", f"criterion {name} needs {', '.join(sorted(wanted))}"))
    if structure.target.metric == "accuracy_drop":
        needs.append(("/structure/target/metric", "a target of accuracy_drop is measured on answers"))
    return needs


def tell_unknown(name: str, known: Collection[str], catalog: Catalog) -> str:
    """Say that a criterion is none of those `known` for what it is asked to do."""
    if name in catalog.plugins("block_criterion"):
        return (
            f"{name} scores whole blocks: it is for structure.criterion with kinds ['block']; "
            f"expected one of: {', '.join(sorted(known))}"
        )
    return f"there is no criterion {name!r}; there are: {', '.join(sorted(known))}"


def _list_criteria(structure: Structure, catalog: Catalog) -> dict[str, Entry]:
    """Return what may score a structure's units, by name; whole blocks have criteria of their own besides."""
    own = catalog.plugins("block_criterion") if structure.cuts_blocks else {}
    return catalog.plugins("criterion") | own


def _find_block_faults(spec: JobSpec) -> list[ErrorItem]:
    distillation = spec.finetune.distillation if spec.finetune else None
    if not (spec.structure and spec.structure.cuts_blocks) or distillation is None:
        return []
    if distillation.hidden_states is None:
        return []
    detail = (
        "hidden states are compared block by block, and the teacher has blocks that the cut model has not: "
        "expected null where structure.kinds is ['block']"
    )
    return [
        ErrorItem(pointer="/finetune/distillation/hidden_states", code="blocks_without_match", detail=detail)
    ]
