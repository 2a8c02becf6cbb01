"""The summary of a report, as it is printed."""

import copy
import io
import re

import pytest
from rich.console import Console

from app.client_errors import ApiError
from app.console import show_refusal, show_report
from tests.app.test_cli import REPORT

PERPLEXITY = {
    "name": "perplexity",
    "split": "test",
    "n": 240,
    "higher_is_better": False,
    "average": None,
    "baseline": 21.25,
    "baseline_ci95": [20.5, 22.0],
    "pruned": 312_345.678,
    "final": 23.5,
    "final_ci95": [22.75, 24.25],
    "drop": -2.25,
    "drop_ci95": [-2.5, -2.0],
    "method": "paired bootstrap, 2000 draws",
    "p_value": None,
    "flips": None,
}


def render(report: dict) -> str:
    """Print a report; spaces in a row as one."""
    file = io.StringIO()
    show_report(Console(file=file, width=200), report)
    return re.sub(" +", " ", file.getvalue())


def change(**changes) -> dict:
    """The report of the other tests with other parts; those of the summary by their name."""
    report = copy.deepcopy(REPORT)
    for name, value in changes.items():
        (report["summary"] if name in report["summary"] else report)[name] = value
    return report


def with_accuracy(**changes) -> dict:
    return change(metrics=[REPORT["summary"]["metrics"][0] | changes])


def test_a_metric_is_shown_dense_and_pruned_with_its_intervals():
    shown = render(REPORT)
    assert "accuracy on test 0.9815 0.9796" in shown
    assert "95 % interval 0.9700 to 0.9900 0.9600 to 0.9900" in shown
    assert "before recovery 0.9300" in shown
    assert "6 samples became wrong, 5 right (McNemar's p = 1)." in shown


def test_what_prunes_only_while_it_trains_has_no_number_before_recovery():
    shown = render(with_accuracy(pruned=None))
    assert "accuracy on test 0.9815 0.9796" in shown
    assert "before recovery" not in shown


@pytest.mark.parametrize(
    ("finetune", "sentence"),
    [
        ((2000, 2000, None), "Trained for 2,000 steps; the weights are those of the last."),
        (
            (1450, 2000, 1300),
            "Trained for 1,450 of 2,000 steps, stopped early; the weights are those of step 1,300, the best "
            "on validation.",
        ),
    ],
)
def test_it_says_which_step_s_weights_came_out(finetune, sentence):
    fields = dict(zip(("steps", "planned_steps", "best_step"), finetune, strict=True))
    assert sentence in render(change(finetune=fields))
    assert "Trained" not in render(change(finetune=None))


@pytest.mark.parametrize(
    ("drop", "interval", "said"),
    [
        (0.02, [0.01, 0.03], "worse by 0.0200 (95 % interval 0.0100 to 0.0300, n = 540)."),
        (-0.02, [-0.03, -0.01], "better by 0.0200 (95 % interval 0.0100 to 0.0300, n = 540)."),
        (0.01, [-0.005, 0.03], "interval -0.0050 to 0.0300, n = 540), which may be chance."),
        (0.0, [0.0, 0.0], "the same (n = 540)."),
        (-2.9e-5, [-3.1e-5, -2.7e-5], "better by 2.9e-05 (95 % interval 2.7e-05 to 3.1e-05, n = 540)."),
        (0.0, [-0.005, 0.005], "the same (95 % interval -0.0050 to 0.0050, n = 540)."),
    ],
)
def test_the_way_that_a_metric_went_is_a_word(drop, interval, said):
    assert said in render(with_accuracy(drop=drop, drop_ci95=interval))


def test_a_perplexity_that_grew_is_worse():
    shown = render(change(metrics=[PERPLEXITY], worst_class=None, classes=[]))
    assert "perplexity on test 21.2500 23.5000" in shown
    assert "before recovery 3.1235e+05" in shown
    assert "worse by 2.2500 (95 % interval 2.0000 to 2.5000, n = 240)." in shown
    assert "became wrong" not in shown
    assert "class" not in shown


def test_an_f1_says_which_it_is():
    assert "f1, mean of the classes on test" in render(with_accuracy(name="f1", average="macro"))
    assert "f1 of class 1 on test" in render(with_accuracy(name="f1", average="binary"))


def test_the_class_that_lost_most_is_shown():
    shown = render(REPORT)
    assert "worst class, 8: recall 0.9615 0.9231" in shown
    assert "Worst class, 8: worse by 0.0385 (95 % interval -0.0200 to 0.1000, n = 52), which may be" in shown


def test_controls_stand_beside_the_metric_that_they_control():
    metric = REPORT["summary"]["metrics"][0] | {"pruned": None, "final": 0.9012, "drop": 0.0803}
    shown = render(
        change(controls=[{"name": "random_mask", "metrics": [metric | {"drop_ci95": [0.06, 0.1]}]}])
    )
    assert "control: random_mask 0.9012" in shown
    assert (
        "Control random_mask, accuracy: worse by 0.0803 (95 % interval 0.0600 to 0.1000, n = 540)." in shown
    )


def test_warnings_come_last_and_whole():
    warning = "class 3 loses [b]75 %[/b] " + "of what it had " * 20
    shown = render(change(warnings=["small test split", warning]))
    last = shown[shown.index("warning: ") :].replace("\n", " ")
    assert last.startswith("warning: small test split warning: class 3 loses [b]75 %[/b] of")
    assert last.count("of what it had") == 20


def test_a_report_of_an_older_service_is_shown_too():
    metric = {k: v for k, v in REPORT["summary"]["metrics"][0].items() if k not in NEW_IN_METRIC}
    report = change(metrics=[metric])
    del report["classes"], report["controls"], report["summary"]["worst_class"]
    assert "accuracy on test: worse by 0.0019" in render(report)


NEW_IN_METRIC = ("higher_is_better", "average", "method", "p_value", "flips")


def test_what_was_cut_out_is_told_by_kind_and_zeros_only_where_there_are_some():
    groups = [
        {"kind": "channel", "units_before": 16, "units_after": 6, "why_not": None},
        {"kind": "channel", "units_before": 32, "units_after": 30, "why_not": None},
        {"kind": "head", "units_before": 4, "units_after": 2, "why_not": None},
        {"kind": "neuron", "units_before": 10, "units_after": 10, "why_not": "is what the model puts out"},
    ]
    none = {"masked": 0.0, "prunable": 0.0, "total": 0.0}
    cut = {"structure": {"groups": groups}, "parameters": {"before": 1000, "after": 370}}
    shown = render(change(**cut, sparsity=none))
    assert "Cut out: 12 of 48 channels, 2 of 4 heads; 37.0% of the parameters are left." in shown
    assert "are zero" not in shown
    both = render(change(**cut))
    assert "Cut out: " in both
    assert "of all weights are zero." in both


def refuse(*faults: str) -> str:
    """Print the refusal of a spec with faults, of which the detail tells the first."""
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    errors = [{"pointer": f"/seed/{i}", "detail": fault} for i, fault in enumerate(faults)]
    detail = f"the spec is not valid: /seed/0: {faults[0]}{more}"
    file = io.StringIO()
    error = ApiError(422, {"code": "invalid_spec", "detail": detail, "errors": errors})
    show_refusal(Console(file=file, width=200), error)
    return file.getvalue()


def test_a_single_fault_is_said_once():
    assert refuse("expected an integer") == (
        "invalid_spec: the spec is not valid: /seed/0: expected an integer\n"
    )


def test_of_several_faults_each_has_its_line():
    shown = refuse("expected an integer", "found 'x'")
    assert shown.splitlines()[1:] == ["  /seed/0: expected an integer", "  /seed/1: found 'x'"]
