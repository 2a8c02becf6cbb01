"""Export a network for onnxruntime, check that it answers what torch answers, and hand back how to run it."""

import logging
from collections.abc import Callable, Mapping

import numpy as np
import onnxruntime
import torch
from torch import nn

from worker.models.inputs import Inputs, compute_logits

_TOLERANCE = 1e-4
# At every export it says that torchvision is not installed, which nothing here needs.
logging.getLogger("torch.onnx").setLevel(logging.ERROR)


class _Logits(nn.Module):
    """A network of any input form as one of tensors in an order."""

    def __init__(self, model: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model = model
        self.names = names

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        if not self.names:
            return compute_logits(self.model, tensors[0])
        return compute_logits(self.model, dict(zip(self.names, tensors, strict=True)))


def make_session(model: nn.Module, batch: Inputs) -> Callable[[], object]:
    """Return a run of the network on a batch by onnxruntime, one thread; the export fits this batch alone.

    Raises RuntimeError where its answers differ from torch's.
    """
    names = tuple(batch) if isinstance(batch, Mapping) else ()
    tensors = tuple(batch.values()) if isinstance(batch, Mapping) else (batch,)
    with torch.inference_mode():
        expected = compute_logits(model, batch).numpy()
    program = torch.onnx.export(_Logits(model, names).eval(), tensors, dynamo=True, verbose=False)
    assert program is not None  # no file was named
    written = program.model_proto.SerializeToString()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(written, options, providers=["CPUExecutionProvider"])
    feed = {
        given.name: tensor.contiguous().numpy()
        for given, tensor in zip(session.get_inputs(), tensors, strict=True)
    }
    found = session.run(None, feed)[0]
    difference = float(np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-30))
    if difference > _TOLERANCE:
        raise RuntimeError(f"onnxruntime answers something else than torch: {difference:.1e}")
    return lambda: session.run(None, feed)
