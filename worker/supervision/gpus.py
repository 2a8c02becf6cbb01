"""Ask GPUs whether they compute, so that no job is given to one that does not."""

import contextlib
import logging
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from worker.supervision.process import runner_environment
from worker.supervision.slots import Slot, Slots

_log = logging.getLogger(__name__)
# In a process of its own: the worker imports no torch, and a broken driver may crash or hang whoever asks.
_QUESTION = "import torch; torch.ones(8, device='cuda').sum().item()"
_PATIENCE_S = 60.0
_ASK_EVERY_S = 60.0

# Tells whether the GPU with an index computes; it may take a minute.
Answers = Callable[[int], bool]


def answers(gpu: int) -> bool:
    """Tell whether torch computes on the GPU with this index."""
    try:
        process = subprocess.Popen(
            [sys.executable, "-c", _QUESTION],
            env=runner_environment(threads=1, gpu=gpu),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    except OSError:
        return False
    with contextlib.suppress(subprocess.TimeoutExpired):
        return process.wait(_PATIENCE_S) == 0
    # Not waited for: what hangs in the driver does not die either.
    process.kill()
    return False


def start_watch(slots: Slots, draining: threading.Event) -> None:
    """Ask all GPUs now; then, in a thread, those again that did not answer or that failed a job."""
    ask(slots, slots.all, answers)
    threading.Thread(target=_watch, args=(slots, draining), name="gpus", daemon=True).start()


def ask(slots: Slots, which: Sequence[Slot], answers: Answers) -> None:
    """Ask the GPUs of these places, and trust those that answer and no other."""
    asked = [(slot, slot.gpu) for slot in which if slot.gpu is not None]
    with ThreadPoolExecutor(max(1, len(asked))) as pool:
        found = list(pool.map(answers, [gpu for _, gpu in asked]))
    for (slot, gpu), is_good in zip(asked, found, strict=True):
        was_good = slots.is_trusted(slot)
        if is_good:
            slots.trust(slot)
        else:
            slots.doubt(slot)
        if was_good and not is_good:
            _log.warning("a GPU does not compute; it gets no jobs until it does", extra={"gpu": gpu})
        elif is_good and not was_good:
            _log.info("a GPU computes again; it gets jobs", extra={"gpu": gpu})


def _watch(slots: Slots, draining: threading.Event) -> None:
    while not draining.wait(_ASK_EVERY_S):
        ask(slots, slots.list_doubted(), answers)
