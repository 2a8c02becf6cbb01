"""docs/report.md against the code: every field is described, and the worked example prints what it says."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from app.core.report import Report
from app.core.spec import GateMetric, MetricName

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "report.md").read_text("utf-8")


def find_models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
        for field in annotation.model_fields.values():
            yield from find_models(field.annotation)
    for argument in get_args(annotation):
        yield from find_models(argument)


FIELDS = sorted({name for model in find_models(Report) for name in model.model_fields})


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_of_a_report_is_described(name):
    assert re.search(rf"`([a-z_0-9]+\.)?{name}`", PAGE), f"docs/report.md does not say what {name} is"


@pytest.mark.parametrize("name", get_args(MetricName))
def test_every_metric_has_its_row(name):
    assert f"| `{name}` |" in PAGE


def test_a_gate_can_be_set_on_every_metric_and_on_its_drop():
    metrics = set(get_args(MetricName))
    assert metrics | {f"{name}_drop" for name in metrics} < set(get_args(GateMetric))


def test_the_worked_example_prints_what_the_page_says():
    [code] = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    [printed] = re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout == printed, done.stderr
