"""Uploads to make work folders of, and one finished run."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from app.core.report import Report
from tests.worker.pipeline.digits_job import Uploads, write_uploads
from worker.export.reload import CLEAN_MODULE
from worker.forks.client import spawn_server
from worker.pipeline.job import Job
from worker.pipeline.publish import publish
from worker.pipeline.stages import run_stages
from worker.protocol import RunnerInput, RunnerMessage, RunnerOutput

# One for all of them: an interpreter of its own for each takes seconds.
CLEAN = spawn_server(CLEAN_MODULE, os.environ)


@pytest.fixture(scope="session", autouse=True)
def clean_processes() -> Iterator[None]:
    yield
    CLEAN.close()


@dataclass(frozen=True)
class Run:
    """A finished run in its work folder."""

    work: Path
    given: RunnerInput
    messages: list[RunnerMessage]

    @property
    def output(self) -> Path:
        return self.work / "output"

    @property
    def report(self) -> Report:
        return Report.model_validate_json((self.output / "report.json").read_bytes())

    @property
    def index(self) -> RunnerOutput:
        return RunnerOutput.model_validate_json((self.output / "output.json").read_bytes())

    @property
    def skipped(self) -> dict[str, bool]:
        return {m.stage.value: m.skipped for m in self.messages if m.type == "stage.finished"}


def run_job(work: Path, given: RunnerInput) -> Run:
    """Run a job in this process."""
    work.mkdir(parents=True, exist_ok=True)
    messages: list[RunnerMessage] = []
    job = Job(work, given, clean=CLEAN)
    run_stages(job, messages.append)
    publish(job)
    return Run(work, given, messages)


@pytest.fixture(scope="session")
def uploads(tmp_path_factory) -> Uploads:
    return write_uploads(tmp_path_factory.mktemp("uploads"))


@pytest.fixture(scope="session")
def finished(uploads, tmp_path_factory) -> Run:
    """The digits pruned to 70 %; look, and change nothing."""
    return run_job(tmp_path_factory.mktemp("finished"), uploads.runner_input())
