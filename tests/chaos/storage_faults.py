"""Faults of files: torn and bit-flipped checkpoints. A blob that is damaged is tested one by one."""

import contextlib
import random
from pathlib import Path

import psutil

from tests.chaos.faults import fault
from tests.chaos.site import Site


@fault("F15", weight=3)
def tear_checkpoint(site: Site, rng: random.Random) -> str | None:
    return _damage_and_kill(site, rng, _tear)


@fault("F15", weight=3)
def flip_bit_of_checkpoint(site: Site, rng: random.Random) -> str | None:
    return _damage_and_kill(site, rng, _flip)


def _damage_and_kill(site: Site, rng: random.Random, damage) -> str | None:
    """Freeze a runner, damage its newest checkpoint, kill it: the store's copy or the one before must count.

    A checkpoint that has no bytes yet is still being written, and cannot be damaged more.
    """
    for runner in rng.sample(found := site.job_runners(), len(found)):
        with contextlib.suppress(psutil.Error, FileNotFoundError):
            runner.suspend()
            job_id = site.job_of(runner)
            newest = [path for path in site.checkpoints() if job_id in path.parts]
            if not newest or not newest[0].stat().st_size:
                runner.resume()
                continue
            damage(newest[0], rng)
            runner.kill()
            return f"{newest[0].name} of {job_id}"
    return None


def _tear(path: Path, rng: random.Random) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: rng.randrange(len(data))])


def _flip(path: Path, rng: random.Random) -> None:
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(bytes(data))
