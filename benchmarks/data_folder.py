"""Find the folder of benchmark data that an environment variable names, and files in it."""

import os
from pathlib import Path

VARIABLE = "SECATEUR_BENCH_DATA"


class NoBenchmarkData(Exception):
    """The folder of benchmark data, or a file in it, is not there."""


def find_data_folder() -> Path:
    """Return the folder; raise NoBenchmarkData saying how to name it."""
    named = os.environ.get(VARIABLE)
    if not named:
        raise NoBenchmarkData(f"set {VARIABLE} to the folder that holds the benchmark data")
    if not Path(named).is_dir():
        raise NoBenchmarkData(f"{VARIABLE} names {named}, which is not a folder")
    return Path(named)


def find_file(folder: Path, name: str) -> Path:
    """Return one file of the folder; raise NoBenchmarkData naming it when it is missing."""
    if not (folder / name).is_file():
        raise NoBenchmarkData(f"{name} is missing from the folder that {VARIABLE} names")
    return folder / name
