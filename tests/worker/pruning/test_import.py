"""The library stands alone: torch, numpy and pydantic are enough to import it."""

import subprocess
import sys

PROGRAM = """
import sys

class Wall:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {walled}:
            raise ImportError(name + " is behind the wall")

sys.meta_path.insert(0, Wall())
import torch
from worker.pruning import MaskSet, Pruner, prune
masks = prune(torch.nn.Linear(8, 8), {{"target": {{"value": 0.5}}}})
assert masks.sparsity == 0.5
print(sorted(name for name in {loaded} if name in sys.modules))
"""
WALLED = {
    "app",
    "celery",
    "sqlalchemy",
    "redis",
    "fastapi",
    "safetensors",
    "transformers",
    "onnx",
    "scipy",
    "sklearn",
}


def test_pruning_works_where_nothing_but_torch_numpy_and_pydantic_is_installed() -> None:
    program = PROGRAM.format(walled=sorted(WALLED), loaded=sorted(WALLED))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
