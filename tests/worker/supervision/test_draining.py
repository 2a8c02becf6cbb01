"""A worker that drains has one grace, however often it is told to end."""

import math

from worker.supervision.draining import Draining


def test_a_second_signal_gives_no_second_grace():
    draining = Draining()
    assert draining.left_s(10.0) == math.inf
    draining.set()
    first = draining.left_s(10.0)
    draining.set()
    assert draining.left_s(10.0) <= first <= 10.0
