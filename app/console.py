"""What the command line prints: a refusal, how a job stands, the summary of a report."""

from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.table import Table

from app.client_errors import ApiError

Json = dict[str, Any]  # Any: JSON as the service sent it


def show_refusal(console: Console, error: ApiError) -> None:
    """Print what the service refused; several faults each on its line, a single one is said in the first."""
    console.print(f"{error.code}: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
    faults = error.problem.get("errors", ())
    for item in faults if len(faults) > 1 else ():
        console.print(
            f"  {item['pointer'] or '/'}: {item['detail']}", markup=False, highlight=False, soft_wrap=True
        )
    if request_id := error.problem.get("request_id"):
        console.print(f"  request {request_id}", style="dim", markup=False, highlight=False, soft_wrap=True)


def show_job(console: Console, job: Json) -> None:
    """Print how a job stands, and why it failed."""
    console.print(f"{job['id']} {job['status']}", markup=False, highlight=False)
    if job["error"]:
        console.print(f"  {job['error']['code']}: {job['error']['detail']}", style="red", markup=False)
    for gate in job["gates"]["results"]:
        text = f"  gate {gate['metric']} {gate['op']} {gate['value']}: {gate['outcome']} ({gate['measured']})"
        console.print(text, markup=False, highlight=False)


def show_report(console: Console, report: Json) -> None:
    """Print dense against pruned, and in sentences below it what the numbers mean."""
    table = Table("", "dense", "pruned", box=None, pad_edge=False)
    for row in (*_tell_metrics(report), *_tell_sizes(report["summary"])):
        table.add_row(*row)
    console.print(table)
    console.print()
    for sentence in _sentences(report):
        console.print(sentence, markup=False, highlight=False)
    for warning in report["warnings"]:
        console.print(f"warning: {warning}", style="yellow", markup=False, highlight=False)


Row = tuple[str, str, str]


def _tell_metrics(report: Json) -> Iterator[Row]:
    for metric in report["summary"]["metrics"]:
        yield _name(metric), _number(metric["baseline"]), _number(metric["final"])
        yield "  95 % interval", _interval(metric["baseline_ci95"]), _interval(metric["final_ci95"])
        # Where it is the training that finds what to prune, there is nothing before it.
        if metric["pruned"] is not None:
            yield "  before recovery", "", _number(metric["pruned"])
        for control in report.get("controls", ()):
            for other in control["metrics"]:
                if other["name"] == metric["name"]:
                    yield f"  control: {control['name']}", "", _number(other["final"])
    worst = report["summary"].get("worst_class")
    for row in report.get("classes", ()):
        if worst and row["label"] == worst["label"]:
            yield f"worst class, {row['label']}: recall", _number(row["baseline"]), _number(row["final"])


def _tell_sizes(summary: Json) -> Iterator[Row]:
    size, macs = summary["size_bytes"], summary["macs"]
    for label, row in (("parameters", summary["parameters"]), ("  not zero", summary["nonzero"])):
        yield label, f"{row['before']:,}", f"{row['after']:,}"
    yield "bytes", f"{size['dense_before']:,}", f"{size['artifact']:,}"
    yield "  compressed", f"{size['compressed_before']:,}", f"{size['compressed']:,}"
    yield "MACs", f"{macs['before']:,}", f"{macs['after']:,}"
    yield "  by a weight not zero", "", f"{macs['effective']:,}"
    for row in summary["latency"]:
        label = f"ms, batch {row['batch_size']}, {row['device']}"
        yield label, f"{row['baseline_ms']['p50']:.3f}", f"{row['final_ms']['p50']:.3f}"


def _sentences(report: Json) -> Iterator[str]:
    summary = report["summary"]
    sparsity = summary["sparsity"]
    if structure := report.get("structure"):
        yield _tell_cut(structure, summary["parameters"])
    # A cut alone leaves no zeros, and nobody asked for any.
    if not structure or sparsity["total"] > 0.0:
        prunable, total = f"{sparsity['prunable']:.2%}", f"{sparsity['total']:.2%}"
        yield f"{prunable} of the prunable and {total} of all weights are zero."
    for metric in summary["metrics"]:
        yield f"{_name(metric)}: {_tell_change(metric)}.{_tell_flips(metric)}"
    if worst := summary.get("worst_class"):
        yield f"Worst class, {worst['label']}: {_tell_change(worst)}."
    for control in report.get("controls", ()):
        for metric in control["metrics"]:
            yield f"Control {control['name']}, {metric['name']}: {_tell_change(metric)}."
    if finetune := report.get("finetune"):
        yield _tell_finetune(finetune)
    for row in summary["latency"]:
        yield str(row["why"])


def _tell_finetune(finetune: Json) -> str:
    """Say how long the training was, and of which step the weights are."""
    steps, planned, best = finetune["steps"], finetune["planned_steps"], finetune["best_step"]
    length = f"{steps:,} steps" if steps == planned else f"{steps:,} of {planned:,} steps, stopped early"
    of = "the last" if best is None else f"step {best:,}, the best on validation"
    return f"Trained for {length}; the weights are those of {of}."


def _tell_cut(structure: Json, parameters: Json) -> str:
    """Say how much of what could be cut out of the model is gone."""
    counts: dict[str, list[int]] = {}
    for group in structure["groups"]:
        if group["why_not"] is None:
            before, gone = counts.setdefault(group["kind"], [0, 0])
            units = group["units_before"]
            counts[group["kind"]] = [before + units, gone + units - group["units_after"]]
    told = ", ".join(f"{gone:,} of {before:,} {kind}s" for kind, (before, gone) in sorted(counts.items()))
    left = parameters["after"] / parameters["before"]
    return f"Cut out: {told}; {left:.1%} of the parameters are left."


def _name(metric: Json) -> str:
    average = {"binary": " of class 1", "macro": ", mean of the classes"}.get(metric.get("average") or "", "")
    return f"{metric['name']}{average} on {metric['split']}"


def _tell_change(change: Json) -> str:
    """Say which way a number went, and between which ends that surely lies; the sign is told by the word."""
    loss, (low, high) = change["drop"], change["drop_ci95"]
    if not change.get("higher_is_better", True):
        loss, low, high = -loss, -high, -low
    n = f"n = {change['n']:,}"
    if loss == low == high == 0:
        return f"the same ({n})"
    word = "worse"
    if loss < 0:
        word, loss, low, high = "better", -loss, -high, -low
    sure = f"(95 % interval {_interval([low, high])}, {n})"
    if loss == 0:
        return f"the same {sure}"
    doubt = ", which may be chance" if low <= 0 <= high else ""
    return f"{word} by {_number(loss)} {sure}{doubt}"


def _tell_flips(metric: Json) -> str:
    flips = metric.get("flips")
    if not flips:
        return ""
    changed = f"{flips['became_wrong']:,} samples became wrong, {flips['became_right']:,} right"
    return f" {changed} (McNemar's p = {metric['p_value']:.2g})."


def _interval(ends: list[float]) -> str:
    return f"{_number(ends[0])} to {_number(ends[1])}"


def _number(value: float) -> str:
    # A perplexity has no upper end; the digits of one that is far off say nothing. An error may be tiny.
    if value and abs(value) < 0.001:
        return f"{value:.3g}"
    return f"{value:.4f}" if abs(value) < 1000 else f"{value:.5g}"
