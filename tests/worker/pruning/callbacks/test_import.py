"""The packages that callbacks are made for are optional, and stay away until one is imported."""

import subprocess
import sys

import pytest

WALL = """
import sys

class Wall:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {walled}:
            raise ImportError(name + " is behind the wall")

sys.meta_path.insert(0, Wall())
"""


def run(walled: set[str], program: str) -> subprocess.CompletedProcess[str]:
    source = WALL.format(walled=sorted(walled)) + program
    return subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=False)


def test_neither_the_library_nor_the_folder_of_callbacks_loads_their_packages() -> None:
    done = run(
        set(),
        "import worker.pruning, worker.pruning.callbacks, worker.pruning.callbacks.state\n"
        "names = ('transformers', 'lightning', 'pytorch_lightning', 'accelerate')\n"
        "print([name for name in names if name in sys.modules])",
    )
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize(
    ("walled", "module"),
    [({"transformers"}, "transformers"), ({"lightning", "pytorch_lightning"}, "lightning")],
)
def test_a_callback_without_its_package_names_the_package(walled: set[str], module: str) -> None:
    done = run(walled, f"import worker.pruning.callbacks.{module}")
    assert done.returncode == 1
    assert f"ImportError: worker.pruning.callbacks.{module} needs the package {module}" in done.stderr


def test_pytorch_lightning_alone_is_enough() -> None:
    done = run(
        {"lightning"},
        "from pytorch_lightning import Callback\n"
        "from worker.pruning.callbacks.lightning import PruningCallback\n"
        "print(issubclass(PruningCallback, Callback))",
    )
    assert done.stdout.strip() == "True", done.stderr
