"""Judging gates on a report's numbers."""

import operator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.report import (
    BeforeAfter,
    Flips,
    Macs,
    MemoryBytes,
    Metric,
    SizeBytes,
    Sparsity,
    Summary,
    WorstClass,
)
from app.core.spec import Gate
from app.core.states import GateOutcome
from worker.pipeline.gates import judge_gates

OPERATORS = {"<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt}
MASKED = 268_336


def make_summary(*, sparsity: float = 0.7, metrics: tuple[Metric, ...] = ()) -> Summary:
    return Summary(
        parameters=BeforeAfter(before=1, after=1),
        nonzero=BeforeAfter(before=1, after=1),
        sparsity=Sparsity(masked=sparsity, prunable=0.1, total=0.2),
        size_bytes=SizeBytes(dense_before=9, artifact=8, compressed_before=7, compressed=6),
        macs=Macs(before=5, after=4, effective=3),
        memory_bytes=MemoryBytes(
            weights_before=1, weights_after=1, peak_inference_before=1, peak_inference_after=1
        ),
        metrics=metrics,
        worst_class=WorstClass(label=3, n=20, drop=0.2, drop_ci95=(0.05, 0.35)) if metrics else None,
        latency=(),
    )


ACCURACY = Metric(
    name="accuracy",
    split="test",
    n=100,
    higher_is_better=True,
    average=None,
    baseline=0.9,
    baseline_ci95=(0.8, 1.0),
    pruned=0.5,
    final=0.88,
    final_ci95=(0.8, 1.0),
    drop=0.02,
    drop_ci95=(0.0, 0.04),
    method="adjusted Wald of Bonett and Price 2012, paired",
    p_value=0.5,
    flips=Flips(became_wrong=3, became_right=1),
)
PERPLEXITY = ACCURACY.model_copy(
    update={"name": "perplexity", "higher_is_better": False, "final": 21.5, "drop": -1.5}
)


def judge(gate: Gate, summary: Summary):
    (result,) = judge_gates((gate,), summary, masked=MASKED)
    return result


@given(st.sampled_from(sorted(OPERATORS)), st.floats(-1, 10), st.sampled_from(["error", "warn"]))
def test_a_gate_passes_exactly_when_its_comparison_holds(op, value, level):
    result = judge(Gate(metric="size_bytes", op=op, value=value, level=level), make_summary())
    failed = GateOutcome.FAILED if level == "error" else GateOutcome.WARNED
    assert result.outcome == (GateOutcome.PASSED if OPERATORS[op](8, value) else failed)
    assert result.measured == 8


@pytest.mark.parametrize(
    ("metric", "measured"),
    [
        ("accuracy", 0.88),
        ("accuracy_drop", 0.02),
        ("perplexity", 21.5),
        ("perplexity_drop", -1.5),
        ("worst_class_drop", 0.2),
        ("sparsity", 0.7),
        ("size_bytes", 8),
        ("compressed_bytes", 6),
        ("macs", 4),
    ],
)
def test_each_metric_is_read_from_its_place(metric, measured):
    summary = make_summary(metrics=(ACCURACY, PERPLEXITY))
    assert judge(Gate(metric=metric, op=">=", value=0), summary).measured == measured


@pytest.mark.parametrize(
    "metric", ["accuracy", "accuracy_drop", "f1", "mse_drop", "worst_class_drop", "speedup"]
)
def test_what_was_not_measured_is_not_evaluated(metric):
    result = judge(Gate(metric=metric, op=">=", value=0), make_summary())
    assert (result.outcome, result.measured) == (GateOutcome.NOT_EVALUATED, None)


def test_the_nearest_whole_weight_to_the_sparsity_asked_for_passes():
    nearest = round(0.7 * MASKED) / MASKED
    assert nearest < 0.7
    assert (
        judge(Gate(metric="sparsity", op=">=", value=0.7), make_summary(sparsity=nearest)).outcome == "passed"
    )


def test_one_weight_less_than_that_does_not():
    less = (round(0.7 * MASKED) - 1) / MASKED
    assert judge(Gate(metric="sparsity", op=">=", value=0.7), make_summary(sparsity=less)).outcome == "failed"
