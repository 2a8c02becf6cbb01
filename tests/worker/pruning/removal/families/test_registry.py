"""Declarations of families hold for the installed transformers: names, sizes and fields as it has them."""

from importlib import import_module

import pytest

from tests.worker.pruning.removal.tiny_transformers import KINDS, make
from worker.pruning.removal.families import families, find_blocks, find_family, find_sizes


def test_the_families_are_those_that_are_promised() -> None:
    assert set(families()) >= {name for name in KINDS if name != "t5-gated"}


@pytest.mark.parametrize("model_type", sorted(families()))
def test_every_class_that_a_family_names_exists(model_type: str) -> None:
    family = families()[model_type]
    modeling = import_module(f"transformers.models.{model_type}.modeling_{model_type}")
    named = {*family.sizes, *family.constants, *family.queries, *family.inexpressible}
    named |= {name for field in family.fields.values() for name in field.classes}
    assert {name for name in named if not hasattr(modeling, name)} == set()


@pytest.mark.parametrize("name", sorted(KINDS))
def test_sizes_and_fields_measure_what_a_dense_model_says_of_itself(name: str) -> None:
    model = make(name, layers=3)
    family = find_family(model)
    assert family is not None
    measured = {
        (type(module).__name__, key): (size.measure(module), getattr(module, key))
        for module in model.modules()
        for key, size in find_sizes(module).items()
    }
    assert {one for one, (found, kept) in measured.items() if found != kept} == set()
    assert {one for one, _ in measured} <= set(family.sizes)
    # What the configuration may leave out.
    config = model.config
    derived = {"n_inner": 4 * 24, "head_dim": config.hidden_size // config.num_attention_heads}
    for key, field in family.fields.items():
        found = {field.measure(one) for one in model.modules() if type(one).__name__ in field.classes}
        said = getattr(model.config, key, None)
        assert found == {derived[key] if said is None else said}
    for stack, blocks in find_blocks(model, family):
        assert len(list(model.get_submodule(stack).children())) == getattr(model.config, blocks.count) == 3
