"""The catalog that the API reads instead of importing the registries."""

import json

import jsonschema
import pytest

from worker import catalog
from worker.models.registry import architectures
from worker.pruning.registry import entries

KINDS = {
    "criteria": "criterion",
    "block_criteria": "block_criterion",
    "patterns": "pattern",
    "allocations": "allocation",
    "schedules": "schedule",
}


def all_entries():
    written = catalog.build_catalog()
    return [entry for key in (*KINDS, "architectures") for entry in written[key]]


@pytest.mark.parametrize("key", KINDS)
def test_everything_registered_is_listed_by_name(key):
    names = [entry["name"] for entry in catalog.build_catalog()[key]]
    assert names == sorted(entries(KINDS[key]))


def test_every_architecture_is_listed_by_name():
    assert [entry["name"] for entry in catalog.build_catalog()["architectures"]] == sorted(architectures())


def test_every_entry_says_what_it_is_and_where_it_comes_from():
    for entry in all_entries():
        assert entry["summary"].endswith(".")
        assert len(entry["source"]) > 10


def test_defaults_fit_their_own_schema_and_unknown_parameters_do_not():
    for entry in all_entries():
        schema = entry["params_schema"]
        jsonschema.Draft202012Validator.check_schema(schema)
        optional = {**schema, "required": []}
        jsonschema.validate(entry["defaults"], optional)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**entry["defaults"], "no_such_parameter": 1}, optional)


def test_the_committed_file_is_fresh():
    assert catalog.main(["--check"]) == 0


def test_a_stale_file_is_found_and_written_anew(tmp_path, capsys):
    path = tmp_path / "catalog.json"
    path.write_text("{}")
    assert catalog.main(["--check"], path) == 1
    assert "is stale" in capsys.readouterr().err
    assert catalog.main([], path) == 0
    assert catalog.main(["--check"], path) == 0
    assert json.loads(path.read_text()) == json.loads(json.dumps(catalog.build_catalog()))


def test_writing_twice_gives_the_same_bytes(tmp_path):
    contents = set()
    for name in ("one", "two"):
        catalog.main([], tmp_path / name)
        contents.add((tmp_path / name).read_bytes())
    assert len(contents) == 1
