"""Judge a job's gates on the numbers of its report."""

import operator
from collections.abc import Callable, Mapping, Sequence

from app.core.report import GateResult, Summary
from app.core.spec import Gate, GateMetric
from app.core.states import GateOutcome

_COMPARE: Mapping[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}


def judge_gates(gates: Sequence[Gate], summary: Summary, *, masked: int) -> tuple[GateResult, ...]:
    """Compare each gate's metric with its value; `masked` is how many weights the masks cover.

    A gate on the sparsity means that of the masked tensors, which is what a target asks for.
    """
    return tuple(_judge(gate, _find(gate.metric, summary), masked=masked) for gate in gates)


def _judge(gate: Gate, measured: float | None, *, masked: int) -> GateResult:
    if measured is None:
        outcome = GateOutcome.NOT_EVALUATED
    elif _COMPARE[gate.op](_round_to_weights(gate, measured, masked=masked), gate.value):
        outcome = GateOutcome.PASSED
    else:
        outcome = GateOutcome.FAILED if gate.level == "error" else GateOutcome.WARNED
    return GateResult(
        metric=gate.metric,
        op=gate.op,
        value=gate.value,
        level=gate.level,
        measured=measured,
        outcome=outcome,
    )


def _round_to_weights(gate: Gate, measured: float, *, masked: int) -> float:
    # 70 % of 269,722 weights is no whole number: the nearest count of weights is what 70 % means.
    if gate.metric == "sparsity" and abs(measured - gate.value) * masked <= 0.5:
        return gate.value
    return measured


def _find(metric: GateMetric, summary: Summary) -> float | None:
    """Return the number that a gate is on; None when the job did not measure it."""
    found: dict[str, float | None] = {
        "worst_class_drop": summary.worst_class.drop if summary.worst_class else None,
        "sparsity": summary.sparsity.masked,
        "size_bytes": summary.size_bytes.artifact,
        "compressed_bytes": summary.size_bytes.compressed,
        "macs": summary.macs.after,
        "speedup": next((one.speedup for one in summary.latency), None),
    }
    for one in summary.metrics:
        found |= {one.name: one.final, f"{one.name}_drop": one.drop}
    return found.get(metric)
