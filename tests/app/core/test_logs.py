"""Every log line is one JSON object that says what it is about, and holds no secret."""

import json
import subprocess
import sys
import threading
from contextvars import copy_context

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.logs import add_log_fields, log_fields, mask_secrets

SETUP = (
    "import logging; from app.core.logs import *; configure_logging('test'); log = logging.getLogger('x');"
)


def lines(code: str) -> list[dict]:
    """Run code in a process of its own and return what it logged."""
    done = subprocess.run([sys.executable, "-c", SETUP + code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stderr.splitlines()]


def test_a_line_has_time_level_logger_service_message_and_what_the_caller_gave():
    (line,) = lines("log.info('job claimed', extra={'elapsed_s': 0.5})")
    assert line.pop("at")
    assert line == {
        "level": "INFO",
        "logger": "x",
        "service": "test",
        "message": "job claimed",
        "elapsed_s": 0.5,
    }


def test_fields_of_the_work_at_hand_are_on_every_line_inside_and_on_none_outside():
    code = """
log.info('before')
with log_fields(job_id='job_1'):
    add_log_fields(attempt=2)
    log.info('inside')
    log.info('own', extra={'job_id': 'job_2'})
log.info('after')
"""
    before, inside, own, after = lines(code)
    assert (inside["job_id"], inside["attempt"]) == ("job_1", 2)
    assert own["job_id"] == "job_2"
    assert "job_id" not in before | after
    assert "attempt" not in after


def test_a_stack_trace_is_one_line_and_holds_no_password():
    code = """
try:
    raise ValueError('cannot reach redis://:hunter2@broker:6379/0')
except ValueError:
    log.exception('failed')
"""
    (line,) = lines(code)
    assert "ValueError" in line["exc_info"]
    assert "redis://:***@broker" in line["exc_info"]


def test_a_warning_of_a_library_is_a_line_too():
    (line,) = lines("import warnings; warnings.warn('old')")
    assert (line["logger"], line["level"]) == ("py.warnings", "WARNING")


def test_a_thread_has_the_fields_that_it_was_handed():
    seen = []

    def look() -> None:
        from app.core.logs import _fields  # noqa: PLC0415

        seen.append(_fields.get().get("job_id"))

    with log_fields(job_id="job_1"):
        add_log_fields(attempt=1)
        thread = threading.Thread(target=copy_context().run, args=(look,))
        thread.start()
        thread.join()
    assert seen == ["job_1"]


@pytest.mark.parametrize("header", ["Authorization: Bearer {}", "authorization: basic {}", "key whsec_{}"])
@given(secret=st.text(alphabet="abcdefghijklmnopqrstuvwxyzABCDEFGH0123456789+/", min_size=24, max_size=64))
def test_no_key_survives(header, secret):
    text = header.format(secret)
    assert secret not in mask_secrets(json.dumps({"message": text, "again": text}))
