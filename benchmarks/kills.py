"""`make bench-kills`: kill one gradual job at twenty random moments, and compare what comes out each time."""

import os
import random
import shutil
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

from app.core.spec import JobSpec
from benchmarks.digits import ARCHITECTURE, load_splits, save_split, train_dense
from worker.measure.size import digest_file
from worker.protocol import (
    INPUT_NAME,
    OUTPUT_FOLDER,
    OUTPUT_NAME,
    DatasetInput,
    Failed,
    ModelInput,
    Progress,
    RunnerInput,
    RunnerOutput,
    StageStarted,
)
from worker.supervision.process import RunnerProcess, make_starter

OUTPUT = Path("bench-output") / "kills"
KILLS = 20
SEED = 20
CHECKPOINT_S = 1.0
_POLL_S = 0.01
SPEC = {
    "model_id": "mdl_" + "0" * 26,
    "dataset_id": "dst_" + "0" * 26,
    "recipe": {"target": {"metric": "sparsity", "value": 0.7}, "schedule": {"name": "cubic"}},
    "finetune": {"epochs": 20, "batch_size": 64, "learning_rate": 0.05, "augment": True, "distillation": {}},
    "evaluation": {"latency": None},
    "resources": {"checkpoint_s": CHECKPOINT_S},
}
_STARTER = make_starter("worker.runner", threads=1)


@dataclass
class Attempt:
    """One process at a job: how long it ran, and the last that it said before it ended or was killed."""

    elapsed_s: float = 0.0
    stage: str = "start"
    step: int = 0
    said_s: float = 0.0
    resumed_at: int | None = None
    started_s: float = 0.0
    error: str | None = None

    @property
    def steps_per_s(self) -> float:
        """The pace of the fine-tune, as far as it told."""
        return self.step / (self.said_s - self.started_s) if self.step else 0.0


def main() -> int:
    """Run, kill, run on and compare; returns 0 when all digests are those of the undisturbed run."""
    console = Console()
    shutil.rmtree(OUTPUT, ignore_errors=True)
    inputs = OUTPUT / "inputs"
    inputs.mkdir(parents=True)
    given = _prepare(inputs)
    whole = _attempt(_make_work("undisturbed", given))
    expected = _read_digest("undisturbed")
    console.print(
        f"undisturbed: {whole.elapsed_s:.1f} s, {whole.step} steps, model.safetensors {expected[:16]}"
    )
    table = Table("run", "killed after", "in stage", "after step", "resumed at", "steps lost", "sha256")
    moments = random.Random(SEED)
    digests = []
    for number in track(range(1, KILLS + 1), "killing", console=console, transient=True):
        name = f"{number:02d}"
        work = _make_work(name, given)
        killed = _attempt(work, kill_after_s=moments.uniform(0.0, whole.elapsed_s))
        resumed = _attempt(work)
        digests.append(_read_digest(name))
        table.add_row(name, *_describe(killed, resumed, steps_per_s=whole.steps_per_s), digests[-1][:16])
        shutil.rmtree(work)
    console.print(table)
    same = sum(digest == expected for digest in digests)
    console.print(
        f"{same} of {KILLS} digests are that of the undisturbed run; checkpoints every {CHECKPOINT_S:g} s"
    )
    return 0 if same == KILLS else 1


def _prepare(folder: Path) -> RunnerInput:
    train, test = load_splits()
    paths = {"train": save_split(train, folder / "train.npz"), "test": save_split(test, folder / "test.npz")}
    weights = folder / "dense.safetensors"
    for _ in train_dense(train, weights):
        pass
    return RunnerInput(
        job_id="job_" + "0" * 26,
        spec_sha256="0" * 64,
        spec=JobSpec.model_validate(SPEC, strict=False),
        model=ModelInput(
            format="safetensors",
            architecture=ARCHITECTURE,
            files={"weights": weights.resolve()},
            sha256={"weights": digest_file(weights)},
        ),
        dataset=DatasetInput(
            format="npz",
            task="image-classification",
            layout="NCHW",
            normalize=None,
            files={name: path.resolve() for name, path in paths.items()},
            sha256={name: digest_file(path) for name, path in paths.items()},
        ),
        threads=1,
        device="cpu",
    )


def _make_work(name: str, given: RunnerInput) -> Path:
    work = OUTPUT / name
    work.mkdir()
    (work / INPUT_NAME).write_text(given.model_dump_json())
    return work


def _attempt(work: Path, *, kill_after_s: float | None = None) -> Attempt:
    """Run the job in a process until it ends, or until it is killed."""
    attempt, started_s = Attempt(), time.monotonic()
    process = RunnerProcess(work, _STARTER)
    try:
        while not process.is_done():
            attempt.elapsed_s = time.monotonic() - started_s
            if kill_after_s is not None and attempt.elapsed_s >= kill_after_s:
                os.killpg(process.pid, signal.SIGKILL)
                break
            _listen(process, attempt)
    finally:
        process.end(grace_s=0.0)
    if attempt.error is not None:
        raise SystemExit(f"the job failed: {attempt.error}")
    return attempt


def _listen(process: RunnerProcess, attempt: Attempt) -> None:
    for message in process.messages(timeout_s=_POLL_S):
        match message:
            case StageStarted():
                attempt.stage = message.stage.value
                if message.stage == "finetune":
                    attempt.started_s = attempt.said_s = attempt.elapsed_s
            case Progress() if message.stage == "finetune":
                attempt.step, attempt.said_s = message.step, attempt.elapsed_s
                resumed_at = message.data.get("resumed_at")
                attempt.resumed_at = resumed_at if isinstance(resumed_at, int) else None
            case Failed():
                attempt.error = message.problem.detail


def _describe(killed: Attempt, resumed: Attempt, *, steps_per_s: float) -> tuple[str, ...]:
    """Say where it was killed: a step is told once a second, so it is reckoned from the last one told."""
    moment = f"{killed.elapsed_s:.1f} s"
    if killed.stage != "finetune":
        return moment, killed.stage, "-", "-", "-"
    step = round(killed.step + (killed.elapsed_s - killed.said_s) * steps_per_s)
    start = resumed.resumed_at or 0
    return moment, killed.stage, f"about {step}", str(start), f"about {max(0, step - start)}"


def _read_digest(name: str) -> str:
    output = OUTPUT / name / OUTPUT_FOLDER
    index = RunnerOutput.model_validate_json((output / OUTPUT_NAME).read_bytes())
    return next(artifact.sha256 for artifact in index.artifacts if artifact.name == "model.safetensors")


if __name__ == "__main__":
    sys.exit(main())
