"""The runner's messages on its stdout."""

import subprocess
import sys

from worker.protocol import MESSAGE, Finished, StageStarted


def run(script: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)


def test_what_libraries_print_never_comes_between_messages():
    done = run(
        "import os, subprocess\n"
        "from worker.channel import open_channel\n"
        "from worker.protocol import Finished, StageStarted\n"
        "channel = open_channel()\n"
        "print('python noise')\n"
        "channel.send(StageStarted(stage='load'))\n"
        "os.write(1, b'noise from C')\n"
        "subprocess.run(['echo', 'noise of a child'])\n"
        "channel.send(Finished())\n"
    )
    messages = [MESSAGE.validate_json(line) for line in done.stdout.splitlines()]
    assert messages == [StageStarted(stage="load"), Finished()]
    for noise in (b"python noise", b"noise from C", b"noise of a child"):
        assert noise in done.stderr


def test_messages_from_many_threads_are_whole_lines():
    done = run(
        "import threading\n"
        "from worker.channel import open_channel\n"
        "from worker.protocol import StageFinished\n"
        "channel = open_channel()\n"
        "def send(): [channel.send(StageFinished(stage='load', data={'x': 'y' * 5000})) for _ in range(50)]\n"
        "threads = [threading.Thread(target=send) for _ in range(4)]\n"
        "[t.start() for t in threads]; [t.join() for t in threads]\n"
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 200
    assert all(MESSAGE.validate_json(line).data == {"x": "y" * 5000} for line in lines)
