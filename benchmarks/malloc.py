"""`python -m benchmarks.malloc`: a training step of ResNet-20 with a runner's settings of malloc and without.

Each setting has a process of its own, in turns, so that what else the machine does meets both.
"""

import subprocess
import sys
from statistics import mean, stdev

from worker.supervision.process import runner_environment

_REPEATS = 5
_SETTINGS = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")
# Prints the CPU seconds of a step, and the pages that it has to get from the system.
_STEPS = """
import resource, torch
from torch.nn.functional import cross_entropy
from worker.models.registry import build

torch.set_num_threads(1)
torch.manual_seed(0)
module = build({"library": "secateur", "name": "resnet-20", "params": {}}).module.train()
images = torch.randn(128, 3, 32, 32).contiguous(memory_format=torch.channels_last)
labels = torch.randint(0, 10, (128,))

def step():
    module.zero_grad(set_to_none=True)
    cross_entropy(module(images), labels).backward()

step(), step()
before = resource.getrusage(resource.RUSAGE_SELF)
for _ in range(12):
    step()
after = resource.getrusage(resource.RUSAGE_SELF)
seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
print(seconds / 12, (after.ru_minflt - before.ru_minflt) / 12)
"""


def main() -> int:
    """Print both, and the time that the settings save: mean and spread over the repeats."""
    given = runner_environment(threads=1, gpu=None)
    environments = {
        "with": given,
        "without": {name: value for name, value in given.items() if name not in _SETTINGS},
    }
    steps: dict[str, list[tuple[float, float]]] = {name: [] for name in environments}
    for _ in range(_REPEATS):
        for name, environment in environments.items():
            steps[name].append(_measure(environment))
    for name, measured in steps.items():
        seconds = [step_s for step_s, _ in measured]
        pages = mean(count for _, count in measured)
        print(f"{name:8}{mean(seconds):.3f} ± {stdev(seconds):.3f} s a step, {pages:,.0f} pages")
    saved = [1 - mine / other for (mine, _), (other, _) in zip(*steps.values(), strict=True)]
    print(f"saved   {mean(saved):.1%} ± {stdev(saved):.1%}")
    return 0


def _measure(environment: dict[str, str]) -> tuple[float, float]:
    done = subprocess.run(
        [sys.executable, "-c", _STEPS], env=environment, capture_output=True, text=True, check=True
    )
    seconds, pages = done.stdout.split()
    return float(seconds), float(pages)


if __name__ == "__main__":
    sys.exit(main())
