"""What the clients ask for: light jobs in thousands, or real training."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx

from tests.chaos import light_job
from tests.chaos.cluster import Cluster
from tests.support import digits
from tests.support.service import wait_for

Spec = dict[str, Any]
# Few seeds and lengths: several jobs share the bytes that they leave.
_SEEDS, _STEPS = 3, (20, 40, 80)
_MISBEHAVING_FRACTION = 0.1
_REAL_SEEDS = (0, 1)


@dataclass(frozen=True)
class Workload:
    """Makes specs, and knows which digest each must end in."""

    make_spec: Callable[[random.Random, str], Spec]
    expected: Callable[[Spec], str]


def prepare_light(cluster: Cluster) -> Workload:
    """Upload a model; steps, seed and the way to end are drawn for each job."""
    with httpx.Client(base_url=cluster.urls[0], timeout=60.0, trust_env=False) as http:
        model_id = upload_model(http)

    def make_spec(rng: random.Random, key: str) -> Spec:
        is_good = rng.random() >= _MISBEHAVING_FRACTION
        way = "well" if is_good else rng.choice(light_job.WAYS[1:])
        resources = {} if is_good else {"max_attempts": 2}
        if way == "hang":
            resources = {"timeout_s": 4}
        seed, steps = rng.randrange(_SEEDS), rng.choice(_STEPS)
        return light_job.make_spec(model_id, seed=seed, steps=steps, way=way, key=key, **resources)

    return Workload(make_spec, light_digest)


def prepare_real(cluster: Cluster) -> Workload:
    """Upload digits, and train undisturbed once a seed to know what must come out."""
    with httpx.Client(base_url=cluster.urls[0], timeout=60.0, trust_env=False) as http:
        model_id = upload_model(http)
        dataset = digits.upload_dataset(http, cluster.folder)
        dataset.raise_for_status()
        dataset_id = dataset.json()["id"]
        expected = {seed: _train(http, _real_spec(model_id, dataset_id, seed, "-")) for seed in _REAL_SEEDS}

    def make_spec(rng: random.Random, key: str) -> Spec:
        return _real_spec(model_id, dataset_id, rng.choice(_REAL_SEEDS), key)

    return Workload(make_spec, lambda spec: expected[spec["seed"]])


def light_digest(spec: Spec) -> str:
    """Return the digest that a light job must end in."""
    return light_job.expected_digest(spec["seed"], int(spec["labels"][light_job.STEPS_LABEL]))


def upload_model(http: httpx.Client) -> str:
    """Upload the tiny network and wait for the verdict of its check."""
    answer = digits.upload_model(http)
    answer.raise_for_status()
    url = f"/v1/models/{answer.json()['id']}"
    wait_for(lambda: http.get(url).json()["status"] != "validating", "the model check", within_s=120.0)
    return answer.json()["id"]


def _real_spec(model_id: str, dataset_id: str, seed: int, key: str) -> Spec:
    labels = {light_job.KEY_LABEL: key}
    resources = {"max_attempts": 20, "checkpoint_s": 1.0}
    return digits.job_spec(model_id, dataset_id, epochs=10, seed=seed, labels=labels, resources=resources)


def _train(http: httpx.Client, spec: Spec) -> str:
    job_id = http.post("/v1/jobs", json=spec).raise_for_status().json()["id"]
    wait_for(
        lambda: http.get(f"/v1/jobs/{job_id}").json()["is_terminal"], "the undisturbed job", within_s=600.0
    )
    artifacts = http.get(f"/v1/jobs/{job_id}/artifacts").raise_for_status().json()["data"]
    return next(a["sha256"] for a in artifacts if a["name"] == light_job.ARTIFACT_NAME)
