"""What is wrong with a body is told in a hundred items, however much of it there is."""

import tracemalloc
from typing import Annotated

import pytest
from pydantic import BaseModel, Field, ValidationError

from app.core.errors import InvalidSpec
from app.services import faults, specs
from app.services.faults import MAX_VALUES

_MIB = 1024 * 1024
_LONG_NAME = b"x" * 900_000
Short = Annotated[str, Field(max_length=3)]


def _names(count: int) -> bytes:
    return b",".join(b'"a%06d":0' % i for i in range(count))


@pytest.mark.parametrize(
    "body",
    [
        b'{"outputs":[' + b"0," * 499_990 + b"0]}",
        b'{"outputs":[' + b"0," * 19_000 + b"0]}",
        b'{"outputs":[' + b",".join([b"[" * 25 + b"]" * 25] * 19_000) + b"]}",
        b"[" + b"NaN," * 249_990 + b"0]",
        b"[" + b"NaN," * 19_000 + b"0]",
        b"{" + _names(90_000) + b"}",
        b"{" + _names(19_000) + b"}",
        b'{"labels":{' + _names(19_000) + b"}}",
        b'{"' + _LONG_NAME + b'":[' + b"NaN," * 19_000 + b"0]}",
    ],
    ids=[
        "outputs",
        "fewer-outputs",
        "nested-outputs",
        "not-finite",
        "fewer-not-finite",
        "names",
        "fewer-names",
        "labels",
        "faults-below-a-long-name",
    ],
)
def test_a_body_full_of_faults_costs_little_memory_and_a_hundred_items(body):
    tracemalloc.start()
    try:
        with pytest.raises(InvalidSpec) as refused:
            specs.read_spec(body)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 50 * _MIB
    assert 1 <= len(refused.value.errors) <= 100
    assert sum(len(item.pointer) + len(item.detail) for item in refused.value.errors) < _MIB


def test_a_body_of_more_values_than_any_spec_has_is_refused_unread():
    body = b'{"labels": {' + _names(MAX_VALUES) + b"}}"
    with pytest.raises(InvalidSpec, match=f"more than {MAX_VALUES} values") as refused:
        specs.read_spec(body)
    assert [(item.pointer, item.code) for item in refused.value.errors] == [("", "too_many_values")]


def test_the_longest_lists_of_layers_are_taken_with_every_default_spelt_out():
    setting = '{"exclude": null, "sparsity": 0.5, "min_sparsity": null, "max_sparsity": null}'
    rows = ", ".join([f'{{"match": "features.*", "set": {setting}}}'] * 1000)
    spec = specs.read_spec(
        f'{{"model_id": "mdl_{"0" * 26}", "recipe": {{"target": {{"value": 0.5}}, "layers": [{rows}]}}, '
        f'"structure": {{"target": {{"metric": "macs", "value": 1}}, "layers": [{rows}]}}}}'.encode()
    )
    assert len(spec.recipe.layers) == 1000


class _Signed(BaseModel):
    name: Short = "a"
    secret: dict[str, Short] | Short = ""


class _Sender(_Signed):
    receivers: list[_Signed] = []


@pytest.mark.parametrize("secret", ["hunter2", 4711, {"a": "hunter2"}, ["hunter2"]])
@pytest.mark.parametrize("is_deep", [False, True])
def test_a_fault_does_not_repeat_what_a_key_named_secret_holds(is_deep, secret):
    signed = {"secret": secret}
    with pytest.raises(ValidationError) as refused:
        _Sender.model_validate({"receivers": [signed]} if is_deep else signed)
    found = faults.from_pydantic(refused.value)
    at = "/receivers/0/secret" if is_deep else "/secret"
    assert {item.pointer.startswith(at) for item in found} == {True}
    assert not [item for item in found if "found" in item.detail or "hunter2" in item.detail]


def test_a_fault_repeats_what_another_key_holds():
    with pytest.raises(ValidationError) as refused:
        _Sender.model_validate({"receivers": [{"name": "hunter2"}]})
    assert faults.from_pydantic(refused.value)[0].detail.endswith("; found 'hunter2'")


def test_faults_of_parameters_are_a_hundred_at_most():
    unknown: dict[str, object] = {f"a{i}": 0 for i in range(1000)}
    found = faults.from_schema({"additionalProperties": False}, unknown, at="/params")
    assert [item.code for item in found] == ["extra_forbidden"] * 100
    wrong = {"items": {"type": "string"}, "type": "array"}
    listed = faults.from_schema({"properties": {"a": wrong}}, {"a": [0] * 1000}, at="/params")
    assert [item.code for item in listed] == ["schema_type"] * 100
