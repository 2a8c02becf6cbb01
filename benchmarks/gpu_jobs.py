"""Jobs on a machine with one GPU: to the end, one after the other, cancelled, killed, and out of memory."""

import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil

from app.client import Client
from benchmarks.follow import Upload, upload_dataset, upload_model
from benchmarks.scratch import prepare_untrained
from benchmarks.service import serving

Json = dict[str, Any]  # Any: JSON
_IMAGES: Final = {"train": 4_096, "test": 1_024}
_ENDLESS: Final = 1_000_000
# What a step of ResNet-56 needs at this batch in float32, about 6 MB an image, is not there; half of it is.
_BIG_BATCH, _LEFT_FREE_BYTES = 4_096, 20 * 1024**3
_CANCEL_LIMIT_S: Final = 15.0
_WAIT_S: Final = 180.0
_HOG = """
import sys, torch
free, _ = torch.cuda.mem_get_info()
held = torch.empty(max(0, free - int(sys.argv[1])), dtype=torch.uint8, device="cuda")
print("holds", held.numel(), flush=True)
sys.stdin.read()
"""


@dataclass(frozen=True)
class Line:
    """One thing that was tried, what was found, and whether that is what was promised."""

    what: str
    found: str
    is_met: bool


def run_jobs(folder: Path) -> Iterator[Line]:
    """Try everything on one service, line by line."""
    model, dataset = _prepare(folder / "inputs")
    with (
        serving(folder / "data", worker_device="cuda", runner_threads=1) as url,
        Client(url) as client,
    ):
        ids = {"model_id": upload_model(client, model), "dataset_id": upload_dataset(client, dataset)}
        yield from _run_two(client, ids)
        yield from _cancel(client, ids)
        yield from _kill(client, ids)
        yield from _run_out_of_memory(client, ids)


def read_memory_mib(pids: Collection[int]) -> int:
    """Return the memory of GPUs that processes hold, in MiB, as the driver counts it."""
    command = ["nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    held = dict(line.split(", ") for line in said.splitlines())
    return sum(int(held[str(pid)]) for pid in pids if str(pid) in held)


def _run_two(client: Client, ids: Json) -> Iterator[Line]:
    """Two jobs at once on one GPU: the second waits, then both end on the GPU with what was asked."""
    jobs = [client.create_job(_spec(ids, name, max_steps=50)) for name in ("first", "second")]
    first, second = (job["id"] for job in jobs)
    _wait_for(client, first, "running")
    waiting = client.job(second)["status"]
    ended = [client.wait(job_id, timeout_s=_WAIT_S) for job_id in (first, second)]
    attempts = [client.attempts(job_id)[0] for job_id in (first, second)]
    pause_s = _moment(attempts[1]["started_at"]) - _moment(attempts[0]["ended_at"])
    yield Line("a second job while the first one runs", waiting, waiting == "queued")
    yield Line("from the first's end to the second's start", f"{pause_s:.2f} s", pause_s >= 0.0)
    for job, attempt in zip(ended, attempts, strict=True):
        summary = client.report(job["id"])["summary"]
        found = f"{job['status']} on {attempt['device']}, sparsity {summary['sparsity']['masked']:.6f}"
        is_met = job["status"] == "succeeded" and "cuda" in str(attempt["device"])
        yield Line(f"the {job['name']} job", found, is_met)


def _cancel(client: Client, ids: Json) -> Iterator[Line]:
    job_id = client.create_job(_spec(ids, "cancelled", max_steps=_ENDLESS))["id"]
    _wait_for_training(client, job_id)
    pids = [process.pid for process in _runners(job_id)]
    busy_mib = read_memory_mib(pids)
    start = time.monotonic()
    client.cancel(job_id)
    while read_memory_mib(pids) > 0 and time.monotonic() - start < _WAIT_S:
        time.sleep(0.05)
    free_s = time.monotonic() - start
    status = client.wait(job_id, timeout_s=_WAIT_S)["status"]
    found = f"{busy_mib:,} MiB before, {read_memory_mib(pids)} MiB {free_s:.1f} s after the cancel; {status}"
    is_met = busy_mib > 0 and free_s <= _CANCEL_LIMIT_S and status == "cancelled"
    yield Line("memory of the GPU, a job cancelled (at most 15 s)", found, is_met)


def _kill(client: Client, ids: Json) -> Iterator[Line]:
    """Kill a runner in its training; what comes out must be what an undisturbed job gives."""
    spec = _spec(ids, "killed", max_steps=200)
    spec["resources"]["checkpoint_s"] = 1.0
    undisturbed, killed = (client.create_job(spec)["id"] for _ in range(2))
    client.wait(undisturbed, timeout_s=_WAIT_S)
    _wait_for_training(client, killed, at_least=0.3)
    start = time.monotonic()
    for process in _runners(killed):
        process.send_signal(signal.SIGKILL)
    job = client.wait(killed, timeout_s=_WAIT_S)
    again = [one for one in client.attempts(killed) if one["attempt"] == 2]
    resumed = again[0]["resumed_from"] if again else None
    found = f"{job['status']} {time.monotonic() - start:.1f} s later, in attempt {job['attempt']}; {resumed}"
    yield Line("a runner killed in its training", found, job["status"] == "succeeded" and bool(resumed))
    digests = [_weights_digest(client, job_id) for job_id in (undisturbed, killed)]
    is_same = digests[0] == digests[1]
    yield Line("its weights against an undisturbed job's", "the same bytes" if is_same else "others", is_same)


def _run_out_of_memory(client: Client, ids: Json) -> Iterator[Line]:
    """Leave too little memory for a batch: the job trains in halves of it, and says so."""
    with _hog() as held:
        spec = _spec(ids, "out of memory", max_steps=3, batch_size=_BIG_BATCH)
        job = client.wait(client.create_job(spec)["id"], timeout_s=_WAIT_S)
    error = job["error"] and job["error"]["detail"]
    warnings = [] if error else client.report(job["id"])["warnings"]
    said = next((one for one in warnings if "memory ran out" in str(one)), error)
    found = f"{job['status']} beside a process that {held} bytes: {said}"
    yield Line("a batch that does not fit", found, job["status"] == "succeeded" and said != error)


def _spec(ids: Json, name: str, *, max_steps: int, batch_size: int = 256) -> Json:
    return ids | {
        "name": name,
        "recipe": {"target": {"metric": "sparsity", "value": 0.7}, "schedule": {"name": "cubic"}},
        "finetune": {
            "max_steps": max_steps,
            "batch_size": batch_size,
            "distillation": None,
            "batchnorm_refresh": 0,
        },
        "evaluation": {"latency": None},
        "resources": {"device": "cuda"},
    }


def _prepare(folder: Path) -> tuple[Upload, Upload]:
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    files = {name: folder / f"{name}.npz" for name in _IMAGES}
    for name, path in files.items():
        x = random.integers(256, size=(_IMAGES[name], 32, 32, 3), dtype=np.uint8)
        np.savez(path, x=x, y=random.integers(10, size=_IMAGES[name]))
    return prepare_untrained(folder, "resnet-56", {}), Upload(files, {"name": "noise", "layout": "NHWC"})


@contextmanager
def _hog() -> Iterator[str]:
    """Hold all of the GPU's memory but what is to be left; yields what it says it holds."""
    command = [sys.executable, "-c", _HOG, str(_LEFT_FREE_BYTES)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait()


def _wait_for(client: Client, job_id: str, status: str) -> Json:
    deadline = time.monotonic() + _WAIT_S
    while (job := client.job(job_id))["status"] != status:
        if job["is_terminal"] or time.monotonic() > deadline:
            raise RuntimeError(f"{job['name']} is {job['status']}, not {status}: {job['error']}")
        time.sleep(0.05)
    return job


def _wait_for_training(client: Client, job_id: str, *, at_least: float = 0.0) -> None:
    """Wait until so much of the training is done."""
    deadline = time.monotonic() + _WAIT_S
    while True:
        job = _wait_for(client, job_id, "running")
        progress = job["progress"] or {}
        step, total = progress.get("step") or 0, progress.get("total") or 1
        if job["stage"] == "finetune" and step > at_least * total:
            return
        if time.monotonic() > deadline:
            raise RuntimeError(f"{job['name']} does not train: {job['stage']}, {progress}")
        time.sleep(0.05)


def _runners(job_id: str) -> list[psutil.Process]:
    """Return the processes that run a job, or what they started."""
    named = ((one, " ".join(one.info["cmdline"] or [])) for one in psutil.process_iter(["cmdline"]))
    return [one for one, command in named if "worker.runner" in command and job_id in command]


def _weights_digest(client: Client, job_id: str) -> str:
    named = {artifact["name"]: artifact["sha256"] for artifact in client.artifacts(job_id)}
    return str(named["model.safetensors"])


def _moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
