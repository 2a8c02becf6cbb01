"""Check what a spec asks of a model's structure against the catalog, and fill in every default."""

from app.core.catalog import Catalog
from app.core.errors import ErrorItem
from app.core.spec import JobSpec
from app.services import faults

NEEDS_DATA = frozenset({"gradients", "activations", "training"})
_NEEDS_TRAINING = "training"


def resolve_structure(spec: JobSpec, catalog: Catalog) -> tuple[JobSpec, list[ErrorItem]]:
    """Check the criterion and the target of the structure; fill in the criterion's parameters."""
    structure = spec.structure
    if structure is None:
        return spec, []
    items: list[ErrorItem] = []
    known = catalog.plugins("criterion")
    entry = known.get(structure.criterion.name)
    at = "/structure/criterion"
    if entry is None:
        detail = f"there is no criterion {structure.criterion.name!r}; there are: {', '.join(sorted(known))}"
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
    entry = catalog.plugins("criterion").get(name)
    wanted = NEEDS_DATA.intersection(entry.needs) if entry else frozenset()
    if wanted:
        needs.append(("/structure/criterion/name", f"criterion {name} needs {', '.join(sorted(wanted))}"))
    if structure.target.metric == "accuracy_drop":
        needs.append(("/structure/target/metric", "a target of accuracy_drop is measured on answers"))
    return needs
