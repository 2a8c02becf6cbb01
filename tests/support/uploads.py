"""Small uploads, and the work of a worker done by hand on the rows: for tests of the HTTP side alone."""

import hashlib
import io
import json
import math
import zlib
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from safetensors.numpy import save

from app.api.dependencies import Parts
from app.core import checks, jobs
from app.core.jobs import Lease
from app.core.tables import Artifact, JobLayer, JobMask, JobReport

ARCHITECTURE = {"library": "secateur", "name": "lenet-300-100", "params": {"image_size": 4}}
LAYERS = {"fc1": (300, 16), "fc2": (100, 300), "fc3": (10, 100)}
INPUT_SHAPE = [1, 4, 4]
MASK_NAME = "fc1.weight"


def model_bytes() -> bytes:
    generator = np.random.default_rng(0)
    tensors = {}
    for name, shape in LAYERS.items():
        tensors[f"{name}.weight"] = generator.standard_normal(shape).astype(np.float32)
        tensors[f"{name}.bias"] = np.zeros(shape[0], np.float32)
    return save(tensors)


def npz_bytes(n: int = 40, *, shape: tuple[int, ...] = (1, 4, 4), **arrays: Any) -> bytes:
    buffer = io.BytesIO()
    given = {"x": np.zeros((n, *shape), np.uint8), "y": np.arange(n) % 10} | arrays
    np.savez(buffer, **{name: value for name, value in given.items() if value is not None})
    return buffer.getvalue()


def upload_model(client: httpx.Client, data: bytes | None = None, **changes: Any) -> httpx.Response:
    headers = changes.pop("headers", {})
    manifest = {"name": "lenet", "format": "safetensors", "architecture": ARCHITECTURE} | changes
    return client.post(
        "/v1/models",
        data={"manifest": json.dumps(manifest)},
        files={"file": ("model.safetensors", model_bytes() if data is None else data)},
        headers=headers,
    )


def upload_dataset(
    client: httpx.Client, files: dict[str, bytes] | None = None, **changes: Any
) -> httpx.Response:
    headers = changes.pop("headers", {})
    files = {"train": npz_bytes(), "test": npz_bytes(20)} if files is None else files
    manifest = {
        "name": "digits",
        "task": "image-classification",
        "format": "npz",
        "splits": {split: f"{split}.npz" for split in files},
    } | changes
    parts = [("file", (f"{split}.npz", data)) for split, data in files.items()]
    return client.post("/v1/datasets", data={"manifest": json.dumps(manifest)}, files=parts, headers=headers)


def job_spec(model_id: str, dataset_id: str | None = None, **changes: Any) -> dict[str, Any]:
    spec: dict[str, Any] = {"model_id": model_id, "recipe": {"target": {"metric": "sparsity", "value": 0.7}}}
    if dataset_id is not None:
        spec["dataset_id"] = dataset_id
    return spec | changes


def inspection(*, classes: int = 10) -> dict[str, Any]:
    """What the deep check finds in the model above, of its groups the first."""
    layers = []
    for name, shape in LAYERS.items():
        for kind, own in (("weight", shape), ("bias", shape[:1])):
            layers.append(
                {
                    "name": f"{name}.{kind}",
                    "type": "Linear",
                    "shape": list(own),
                    "parameters": math.prod(own),
                    "macs": math.prod(own) if kind == "weight" else 0,
                    "prunable": kind == "weight",
                    "group": None,
                    "why_not": None if kind == "weight" else "is a bias",
                }
            )
    return {
        "kind": "check_model",
        "parameters": sum(layer["parameters"] for layer in layers),
        "prunable_parameters": sum(layer["parameters"] for layer in layers if layer["prunable"]),
        "macs": sum(layer["macs"] for layer in layers),
        "input_signature": {"shape": INPUT_SHAPE, "dtype": "float32", "classes": classes},
        "forward_ms": 0.01,
        "layers": layers,
        "groups": [
            {
                "name": "fc1.weight",
                "kind": "neuron",
                "units": 300,
                "why_not": None,
                "cuts": [
                    {"tensor": "fc1.weight", "axis": 0, "positions": 1},
                    {"tensor": "fc1.bias", "axis": 0, "positions": 1},
                    {"tensor": "fc2.weight", "axis": 1, "positions": 1},
                ],
            }
        ],
    }


def make_ready(parts: Parts, model_id: str, **changes: Any) -> None:
    with parts.sessions.begin() as session:
        check = checks.begin(session, model_id, timeout_s=60.0)
        assert check is not None
        checks.accept(session, model_id, check, inspection=inspection(**changes))


def start_job(parts: Parts, job_id: str) -> Lease:
    with parts.sessions.begin() as session:
        lease = jobs.claim(session, job_id, "test", lease_s=60.0)
        assert lease is not None
        return lease


def finish_job(parts: Parts, job_id: str, folder: Path, *, artifact: bytes = b"0123456789") -> None:
    """Run a job to its end: one mask, one layer, one artifact, a report of one field."""
    lease = start_job(parts, job_id)
    path = folder / "artifact"
    path.write_bytes(artifact)
    sha256 = parts.store.add_file(path)
    bits = np.packbits(np.arange(300 * 16) % 2 == 0, bitorder="little").tobytes()
    with parts.sessions.begin() as session:
        session.add(JobReport(job_id=job_id, report={"report_schema": "1.0"}))
        session.add(JobLayer(job_id=job_id, position=0, name=MASK_NAME, row={"name": MASK_NAME}))
        session.add(
            JobMask(
                job_id=job_id,
                position=0,
                name=MASK_NAME,
                shape=[300, 16],
                pattern="unstructured",
                sparsity=0.5,
                sha256=hashlib.sha256(bits).hexdigest(),
                bits_zlib=zlib.compress(bits),
            )
        )
        session.add(
            Artifact(
                job_id=job_id,
                name="model.safetensors",
                kind="model",
                media_type="application/octet-stream",
                sha256=sha256,
                size_bytes=len(artifact),
                loads_in_clean_process=True,
            )
        )
        jobs.succeed(session, lease, gates={"outcome": "not_evaluated", "results": []})
