"""Every example runs and says what the pages show, and the pages show the very lines of the examples."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs" / "examples"
PAGE = (ROOT / "docs" / "training-loops.md").read_text()
ZEROS = r"{} of {} weights are zero: sparsity {}"

# What each prints, as a regular expression; numbers that depend on the machine's arithmetic are left open.
PRINTED = {
    "plain": [r"accuracy 0\.\d{3} on digits", ZEROS.format(15322, 17024, r"0\.9000")],
    "resume": [r"(sparsity 0\.9000 after 200 steps\n){2}", "the resumed run ended with the same bits"],
    "trainer": [r"evaluation loss [\d.]+, of the best", ZEROS.format(13926, 17408, r"0\.8000")],
    "lightning_module": [r"accuracy 0\.\d{3} on digits", ZEROS.format(6487, 7632, r"0\.8500")],
    "ema": [
        r"still remembers: [1-9]\d*",
        r"after masks\.apply\(average\): 0",
        r"averaged network 0\.\d{3}, sparsity 0\.9000",
    ],
    "ddp": [
        r"process 0: (8525 of 9472 weights are zero, sha256 of all [0-9a-f]{12})\nprocess 1: \1\n",
        r"sparsity 0\.9000",
    ],
    "cost": [r"SGD, momentum +\d+ ms", r"AdamW +\d+ ms"],
}
ARGUMENTS = {"cost": ["1"]}


def test_every_example_is_run() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(PRINTED)


@pytest.mark.parametrize("name", PRINTED)
def test_an_example_prints_what_the_page_promises(name: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, EXAMPLES / f"{name}.py", *ARGUMENTS.get(name, [])],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    for pattern in PRINTED[name]:
        assert re.search(pattern, done.stdout), f"{pattern!r} is not in {done.stdout!r}"


def blocks() -> list[tuple[str, str]]:
    """Return each block of Python on the page with the example that was named last before it."""
    found: list[tuple[str, str]] = []
    name = ""
    for match in re.finditer(r"\(examples/(\w+)\.py\)|^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL):
        if match[1]:
            name = match[1]
        else:
            found.append((name, match[2]))
    return found


@pytest.mark.parametrize(("name", "block"), blocks())
def test_a_block_on_the_page_is_a_part_of_its_example(name: str, block: str) -> None:
    assert f"\n{block}" in f"\n{(EXAMPLES / f'{name}.py').read_text()}"


def test_the_five_lines_are_marked_and_shown() -> None:
    source = (EXAMPLES / "plain.py").read_text()
    shown = "".join(block for name, block in blocks() if name == "plain")
    for number in range(1, 6):
        marked = [line for line in source.splitlines() if re.search(rf"# {number}\b", line)]
        assert len(marked) == 1
        assert marked[0] in shown
