"""The job files of the documentation are jobs that the service takes."""

import json
from pathlib import Path

import pytest
import yaml

from app.core.spec import JobSpec

FILES = sorted((Path(__file__).parents[2] / "docs").glob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_job_file_is_a_spec(path: Path) -> None:
    given = {
        name: value
        for name, value in yaml.safe_load(path.read_text()).items()
        if name not in ("model", "dataset")
    }
    spec = JobSpec.model_validate_json(json.dumps({"model_id": "mdl_" + "0" * 26, **given}))
    assert (spec.structure is not None) == (path.name == "cut.yaml")
