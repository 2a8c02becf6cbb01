"""docs/faults.md names every fault, and only tests and faults of the harness that exist."""

import re
from pathlib import Path

import pytest

from tests.chaos import broker_faults, database_faults, process_faults, receiver_faults, storage_faults
from tests.chaos.faults import FAULTS

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "faults.md").read_text()
ROWS = dict(re.findall(r"^\| (F\d+) \| (.*) \|$", PAGE, re.MULTILINE))
# Imported for what they register.
SOURCES = (broker_faults, database_faults, process_faults, receiver_faults, storage_faults)


def names_of(row: str) -> list[str]:
    """Return the faults of the harness that a row names."""
    named = row.partition("campaign: ")[2]
    return [name for name in re.findall(r"`(\w+)`", named) if "::" not in name]


def test_the_list_is_whole():
    assert list(ROWS) == [f"F{number}" for number in range(1, 32)]


@pytest.mark.parametrize("number", ROWS)
def test_each_fault_is_injected_by_tests_that_exist_or_says_why_not(number):
    row = ROWS[number]
    tests = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", row)
    for path, name in tests:
        assert f"def {name}(" in (ROOT / path).read_text(), f"{number}: there is no {path}::{name}"
    unknown = [name for name in names_of(row) if name not in FAULTS]
    assert unknown == []
    assert tests or names_of(row) or "cannot be injected" in row


def test_every_fault_of_the_harness_is_on_the_page_under_its_numbers():
    missing = [
        f"{fault.name} ({number})"
        for fault in FAULTS.values()
        for number in fault.numbers
        if fault.name not in names_of(ROWS[number])
    ]
    assert missing == []
