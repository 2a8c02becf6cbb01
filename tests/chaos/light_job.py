"""A light job: what it is asked to do, and the bytes that it must leave however often it was killed."""

import hashlib
from typing import Any

ARTIFACT_NAME = "model.safetensors"
STEPS_LABEL, WAY_LABEL, KEY_LABEL = "steps", "way", "key"
# How a light job ends by itself: well, or as a user's fault, a crash or a hang would.
WAYS = ("well", "fail", "exit", "segfault", "nonsense", "hang")
_BLOCKS = 512


def make_spec(
    model_id: str, *, seed: int, steps: int, way: str = "well", key: str = "-", **resources: Any
) -> dict[str, Any]:
    """Return the spec of a light job; `key` marks the job as the one that a client's request made."""
    return {
        "model_id": model_id,
        "seed": seed,
        "labels": {STEPS_LABEL: str(steps), WAY_LABEL: way, KEY_LABEL: key},
        "recipe": {"target": {"metric": "sparsity", "value": 0.5}},
        "evaluation": {"latency": None},
        "resources": {"max_attempts": 20, **resources},
    }


def first_state(seed: int) -> str:
    """Return where the chain of steps begins."""
    return hashlib.sha256(f"seed {seed}".encode()).hexdigest()


def next_state(state: str, step: int) -> str:
    """Do one step; left out, done twice or out of order, it changes everything that follows."""
    return hashlib.sha256(f"{state} {step}".encode()).hexdigest()


def artifact_bytes(state: str) -> bytes:
    """Return the file that the last state makes."""
    return b"".join(hashlib.sha256(f"{state}/{i}".encode()).digest() for i in range(_BLOCKS))


def expected_digest(seed: int, steps: int) -> str:
    """Return the SHA-256 of the artifact of a job that did every step once, in order."""
    state = first_state(seed)
    for step in range(1, steps + 1):
        state = next_state(state, step)
    return hashlib.sha256(artifact_bytes(state)).hexdigest()
