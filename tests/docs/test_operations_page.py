"""The page for operators names every setting with its default, every metric, and no other."""

import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from app.api.metrics import Metrics
from app.core import schema
from app.core.config import Settings
from app.core.db import make_engine, make_sessions

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "operations.md").read_text()


def table(heading: str) -> dict[str, list[str]]:
    """Return the rows of the first table of a section by the code of their first column."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = [re.split(r" \| ", line.strip("| ")) for line in section.splitlines() if line.startswith("| `")]
    return {row[0].strip("`"): row[1:] for row in rows}


@pytest.mark.parametrize("name", sorted(Settings.model_fields))
def test_every_setting_is_there_with_its_default(name):
    rows = table("Settings")
    assert name in rows, f"docs/operations.md: give {name} a row in the table of settings"
    default = Settings.model_fields[name].default
    in_data_dir = name in ("database_url", "broker_url", "store_url", "pulse_dir")
    assert rows[name][0] == ("in `data_dir`" if in_data_dir else f"`{default}`")
    assert len(rows[name][1]) > 10


def test_no_setting_is_there_that_the_code_does_not_have():
    assert set(table("Settings")) == set(Settings.model_fields)


def test_every_metric_is_there_and_no_other(tmp_path):
    engine = make_engine(f"sqlite:///{tmp_path / 'secateur.db'}")
    schema.upgrade(engine)
    metrics = Metrics(cache_s=0.0)
    text = metrics.render(make_sessions(engine)).decode()
    ours = {
        f"{family.name}_total" if family.type == "counter" else family.name
        for family in text_string_to_metric_families(text)
        if family.name.startswith("secateur_")
    }
    assert ours == set(table("Metrics"))
