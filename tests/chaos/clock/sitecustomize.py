"""A clock that is wrong: Python runs this before anything else where this folder is on its path.

$CHAOS_CLOCK_S is how far it is off; time.time and datetime read it, monotonic time goes on as it does.
"""

import datetime
import os
import time

_OFF_S = float(os.environ.get("CHAOS_CLOCK_S", "0"))
_true_time = time.time
_true_datetime = datetime.datetime


class _WrongDatetime(_true_datetime):
    @classmethod
    def now(cls, tz=None):
        return cls.fromtimestamp(time.time(), tz)

    @classmethod
    def utcnow(cls):
        return cls.fromtimestamp(time.time(), datetime.UTC).replace(tzinfo=None)

    @classmethod
    def today(cls):
        return cls.fromtimestamp(time.time())


if _OFF_S:
    time.time = lambda: _true_time() + _OFF_S
    datetime.datetime = _WrongDatetime
