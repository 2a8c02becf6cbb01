"""A model as a program that torch alone runs: `torch.export.load("model.pt2").module()`.

The batch, and the tokens of a text, may be as many as the model takes. The file holds no pickle, and says
nothing of the machine that wrote it.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from app.core.errors import ExportMismatch
from worker.export.child import raise_for_exit
from worker.models.inputs import Inputs, compute_logits
from worker.numerics import is_out_of_memory

Case = dict[str, Any]  # Any: JSON

_RUNNER = Path(__file__).with_name("program_runner.py")
# What the tracer noted of where in whose code an operation was asked for.
_NOTES = ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn", "from_node")


def write_program(module: nn.Module, inputs: Inputs, path: Path) -> None:
    """Write a model on the CPU; `inputs` are two or more samples, of which it shows what sizes may change.

    Raises ExportMismatch for a model that torch.export does not take, and what says that memory ran out.
    """
    try:
        with torch.no_grad():
            program = _trace(module, inputs)
    except Exception as error:  # whatever a tracer may raise
        if is_out_of_memory(error):
            raise
        first = str(error).strip().partition("\n")[0]
        raise ExportMismatch(f"the model cannot be written as pt2: {first}") from error
    _forget_origin(program)
    torch.export.save(program, path)


def run_program(path: Path, cases: Sequence[Inputs], folder: Path) -> list[Tensor]:
    """Run a program in a clean process that imports torch and nothing else; returns logits, float32, by case.

    What it reads and writes lies in `folder`. Raises ExportMismatch when it does not load or run; Unavailable
    or OutOfMemory when this machine could not find out.
    """
    asked = [_write_case(case, folder, f"case-{number}") for number, case in enumerate(cases)]
    request = {"program": str(path), "cases": asked}
    done = subprocess.run(
        [sys.executable, "-I", str(_RUNNER), json.dumps(request)],
        env=dict(os.environ) | {"CUDA_VISIBLE_DEVICES": ""},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    raise_for_exit(
        done.returncode, done.stderr, failure="model.pt2 does not run in a process with torch alone"
    )
    return [_read_answer(case, shape) for case, shape in zip(asked, json.loads(done.stdout), strict=True)]


def _write_case(inputs: Inputs, folder: Path, label: str) -> Case:
    named = inputs if isinstance(inputs, Mapping) else {"": inputs}
    described = []
    for number, (name, tensor) in enumerate(named.items()):
        file = folder / f"{label}-input-{number}.bin"
        file.write_bytes(tensor.contiguous().numpy().tobytes())
        dtype = str(tensor.dtype).removeprefix("torch.")
        described.append({"name": name, "file": str(file), "shape": list(tensor.shape), "dtype": dtype})
    return {"inputs": described, "output": str(folder / f"{label}-output.bin")}


def _read_answer(case: Case, shape: Sequence[int]) -> Tensor:
    raw = bytearray(Path(case["output"]).read_bytes())
    return torch.frombuffer(raw, dtype=torch.float32).reshape(shape)


class _Images(nn.Module):
    """Answers with a plain tensor: the classes of transformers are unknown where the program is loaded."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return compute_logits(self.model, images)


class _Text(nn.Module):
    """The same for a model that takes token ids."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return compute_logits(self.model, {"input_ids": input_ids, "attention_mask": attention_mask})


class _TypedText(_Text):
    """The same for a model that tells the first text of a pair from the second."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Tensor:  # type: ignore[override]  # the program has one signature
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
        return compute_logits(self.model, inputs)


def _trace(module: nn.Module, inputs: Inputs) -> ExportedProgram:
    if not isinstance(inputs, Mapping):
        plain = _Images(module) if type(module).__module__.startswith("transformers.") else module
        return torch.export.export(plain, (inputs,), dynamic_shapes=({0: Dim.DYNAMIC},), strict=False)
    wrapped = _TypedText(module) if "token_type_ids" in inputs else _Text(module)
    sizes = {name: {0: Dim.DYNAMIC, 1: Dim.DYNAMIC} for name in inputs}
    return torch.export.export(wrapped, (), dict(inputs), dynamic_shapes=sizes, strict=False)


def _forget_origin(program: ExportedProgram) -> None:
    """Take out what is no part of the program: the samples, which would be pickled, and whose code it was."""
    program._example_inputs = None
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                for note in _NOTES:
                    node.meta.pop(note, None)
