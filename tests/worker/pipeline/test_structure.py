"""Jobs that cut units out: smaller files that load again, with zeros and training on top."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from app.core.errors import ArchitectureMismatch, InvalidSpec
from app.core.report import StructureReport
from app.core.spec import JobSpec
from tests.worker.pipeline.conftest import run_job
from worker.formats.registry import read_model
from worker.measure.size import digest_file
from worker.pipeline.structure import warn_of_cut
from worker.protocol import ModelInput
from worker.pruning.errors import UnreachableTarget

PAGE = Path(__file__).parents[3] / "docs" / "structure.md"
PARAMETERS = 4_000
STRUCTURE = {"target": {"metric": "parameters", "value": PARAMETERS}, "criterion": {"name": "taylor"}}


def make_spec(uploads, **changes):
    """Build a runner's input without the zeros that jobs of these tests ask for otherwise."""
    spec = {
        "model_id": "mdl_" + "0" * 26,
        "dataset_id": "dst_" + "0" * 26,
        "evaluation": {"latency": None},
        **changes,
    }
    return uploads.runner_input().model_copy(update={"spec": JobSpec.model_validate_json(json.dumps(spec))})


@pytest.fixture(scope="module")
def cut(uploads, tmp_path_factory):
    """The digits' network cut to 4,000 parameters, then half of these zero, trained for a moment."""
    given = make_spec(
        uploads,
        structure=STRUCTURE,
        recipe={"target": {"value": 0.5}},
        finetune={"max_steps": 30, "batch_size": 64, "learning_rate": 0.05},
    )
    return run_job(tmp_path_factory.mktemp("cut"), given)


def exported_input(run, **changes) -> ModelInput:
    """Describe the exported model as somebody who uploads it."""
    path = run.output / "artifacts" / "model.safetensors"
    architecture = json.loads((run.output / "artifacts" / "architecture.json").read_bytes())
    given = {
        "format": "safetensors",
        "architecture": architecture,
        "files": {"weights": path},
        "sha256": {"weights": digest_file(path)},
    }
    return ModelInput(**{**given, **changes})


def test_the_report_counts_what_is_left_on_the_exported_file(cut):
    summary, tensors = cut.report.summary, load_file(cut.output / "artifacts" / "model.safetensors")
    counted = sum(
        tensor.numel() for name, tensor in tensors.items() if "running" not in name and "num_b" not in name
    )
    assert counted == summary.parameters.after <= PARAMETERS < summary.parameters.before
    assert summary.macs.after < summary.macs.before
    assert summary.macs.effective < summary.macs.after
    assert summary.sparsity.masked == pytest.approx(0.5, abs=1e-3)
    assert summary.size_bytes.artifact < summary.size_bytes.dense_before
    assert summary.metrics[0].final > 0.5


def test_every_group_says_what_it_lost_or_why_nothing(cut):
    structure = cut.report.structure
    assert structure.after <= structure.target == PARAMETERS < structure.before
    assert any(group.units_after < group.units_before for group in structure.groups)
    assert structure.groups[-1].why_not == "is what the model puts out"
    for group in structure.groups:
        assert group.why_not is None or group.units_after == group.units_before
    tensors = load_file(cut.output / "artifacts" / "model.safetensors")
    for group in structure.groups:
        assert tensors[group.name.partition("[")[0]].shape[0] >= group.units_after
    rows = {layer.name: layer for layer in cut.report.layers}
    assert all(rows[name].shape_after == tuple(tensors[name].shape) for name in rows)


def test_each_layer_names_the_group_that_its_outputs_are_in(cut):
    groups = {group.name: group for group in cut.report.structure.groups}
    rows = {layer.name: layer for layer in cut.report.layers}
    for name, row in rows.items():
        assert name in groups[row.group].made_by
        assert groups[row.group].units_before <= row.shape_before[0]
        assert row.shape_before[0] - row.shape_after[0] >= (
            groups[row.group].units_before - groups[row.group].units_after
        )
    shared = [group for group in groups.values() if sum(row.group == group.name for row in rows.values()) > 1]
    assert shared, "residual sums tie the outputs of several layers"
    assert all(set(group.made_by) <= set(group.tensors) for group in groups.values())


def test_two_of_four_weights_go_of_what_a_cut_left(uploads, tmp_path):
    """With a multiple of four every input is one of whole groups; only the image's single channel is not."""
    run = run_job(
        tmp_path / "work",
        make_spec(
            uploads,
            structure=STRUCTURE | {"multiple_of": 4},
            recipe={
                "target": {"value": 0.5},
                "pattern": {"name": "n_m", "params": {"keep": 2, "of": 4}},
            },
            finetune={"max_steps": 10, "batch_size": 64},
        ),
    )
    tensors = load_file(run.output / "artifacts" / "model.safetensors")
    rows = {layer.name: layer for layer in run.report.layers if layer.prunable}
    sparse = {name for name, row in rows.items() if row.sparsity > 0.0}
    assert sparse == rows.keys() - {"conv1.weight"}
    for name in sparse:
        groups = tensors[name].movedim(1, -1).reshape(-1, 4)
        assert ((groups == 0).sum(1) == 2).all(), name
    assert run.report.summary.parameters.after <= PARAMETERS
    assert run.report.summary.sparsity.masked == pytest.approx(0.5, abs=1e-3)
    assert any(group.units_after < group.units_before for group in run.report.structure.groups)


def test_the_sizes_that_were_tried_are_in_the_history(cut):
    probes = [row for row in cut.report.history if row.note and row.note.startswith("structure: ")]
    assert min(row.metrics["parameters"] for row in probes) <= PARAMETERS
    assert len(probes) == sum(map(len, cut.report.structure.probes))


def test_the_same_job_gives_the_same_bytes(cut, tmp_path):
    again = run_job(tmp_path / "work", cut.given)
    assert {a.name: a.sha256 for a in again.index.artifacts} == {
        a.name: a.sha256 for a in cut.index.artifacts
    }


def test_the_exported_model_can_be_uploaded_and_cut_again(cut, tmp_path, uploads):
    exported = exported_input(cut)
    again = make_spec(uploads, structure=STRUCTURE | {"target": {"metric": "parameters", "value": 2_000}})
    run = run_job(tmp_path / "work", again.model_copy(update={"model": exported}))
    assert run.report.summary.parameters.before == cut.report.summary.parameters.after
    assert run.report.summary.parameters.after <= 2_000
    assert run.report.summary.metrics[0].baseline == cut.report.summary.metrics[0].final
    read_model(exported_input(run))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ({"linear.weight": torch.zeros(10, 700)}, r"linear.weight is \[10, 700\], which is no part of"),
        ({"linear.weight": torch.zeros(10)}, "which is no part of"),
        ({"conv1.weight": torch.zeros(3, 1, 3, 3)}, "do not fit each other"),
    ],
)
def test_tensors_that_are_no_cut_model_are_refused(cut, tmp_path, damage, said):
    tensors = load_file(cut.output / "artifacts" / "model.safetensors")
    path = tmp_path / "damaged.safetensors"
    save_file(tensors | damage, path)
    with pytest.raises(ArchitectureMismatch, match=said):
        read_model(exported_input(cut, files={"weights": path}))


@pytest.mark.parametrize(
    ("module", "attribute"), [("", "channels_before"), ("layer2.0.shortcut", "stride"), ("a.b", "__class__")]
)
def test_only_counts_that_modules_keep_can_be_set(cut, module, attribute):
    architecture = exported_input(cut).architecture
    row = {"module": module, "attribute": attribute, "count": 1}
    with pytest.raises(ArchitectureMismatch, match="keeps no count of channels"):
        read_model(exported_input(cut, architecture=architecture | {"cut": {"padded": [row]}}))


def test_a_smaller_file_without_the_architecture_s_word_is_refused(cut):
    architecture = {k: v for k, v in exported_input(cut).architecture.items() if k != "cut"}
    with pytest.raises(ArchitectureMismatch, match="of another shape"):
        read_model(exported_input(cut, architecture=architecture))


def test_without_training_or_zeros_the_cut_alone_is_reported(uploads, tmp_path):
    target = {"metric": "macs", "value": 150_000}
    run = run_job(tmp_path / "work", make_spec(uploads, structure={"target": target}))
    assert run.report.summary.macs.after <= 150_000 < run.report.summary.macs.before
    assert run.report.summary.sparsity.masked < 0.01


def test_the_controls_of_a_ticket_are_cut_too(uploads, tmp_path):
    schedule = {
        "name": "lottery_ticket",
        "params": {"rounds": 1, "controls": ["random_mask", "random_reinit"]},
    }
    run = run_job(
        tmp_path / "work",
        make_spec(
            uploads,
            structure=STRUCTURE,
            recipe={"target": {"value": 0.5}, "schedule": schedule},
            finetune={"max_steps": 5},
        ),
    )
    assert [control.name for control in run.report.controls] == ["random_mask", "random_reinit"]


def test_hidden_states_of_other_widths_are_refused_with_what_to_do(uploads, tmp_path):
    finetune = {"max_steps": 2, "distillation": {"hidden_states": 1.0}}
    with pytest.raises(InvalidSpec, match="leave hidden_states out"):
        run_job(tmp_path / "work", make_spec(uploads, structure=STRUCTURE, finetune=finetune))


def test_movement_learns_on_the_cut_model(uploads, tmp_path):
    run = run_job(
        tmp_path / "work",
        make_spec(
            uploads,
            structure=STRUCTURE,
            recipe={
                "target": {"value": 0.5},
                "criterion": {"name": "movement"},
                "schedule": {"name": "cubic"},
            },
            finetune={"max_steps": 10},
        ),
    )
    assert run.report.summary.parameters.after <= PARAMETERS
    assert run.report.summary.sparsity.masked == pytest.approx(0.5, abs=1e-3)


def test_a_target_in_bytes_is_one_of_the_file_that_is_exported(uploads, tmp_path):
    target = {"metric": "size_bytes", "value": uploads.model.stat().st_size // 2}
    gate = {"metric": "size_bytes", "op": "<=", "value": target["value"]}
    run = run_job(tmp_path / "work", make_spec(uploads, structure={"target": target}, gates=[gate]))
    size = (run.output / "artifacts" / "model.safetensors").stat().st_size
    assert size == run.report.structure.after <= target["value"]
    assert run.report.gates[0].outcome == "passed"


def test_a_latency_is_measured_on_the_worker(uploads, tmp_path):
    # Any model is within an hour: what is tested is that the worker measures, not how fast it is.
    target = {"metric": "latency_ms", "value": 3_600_000}
    changes = {"structure": STRUCTURE | {"target": target}, "evaluation": {"latency": {"repeats": 10}}}
    run = run_job(tmp_path / "work", make_spec(uploads, **changes))
    assert run.report.structure.before > 0.0
    # The last two numbers are not those of the search: both were taken again, by turns.
    assert run.report.structure.after not in {probe.value for probe in run.report.structure.probes[0]}
    assert run.report.summary.parameters.after == run.report.summary.parameters.before


def test_a_latency_over_its_target_in_the_end_is_warned_of():
    found = StructureReport(
        metric="latency_ms", target=2.0, before=4.0, after=2.1, batchnorm_samples=0, groups=(), probes=()
    )
    (warning,) = warn_of_cut(found, has_validation=True)
    assert (
        "the cut model takes 2.1 ms, measured by turns with the whole one, and the target is 2 ms" in warning
    )
    assert warn_of_cut(found.model_copy(update={"after": 2.0}), has_validation=True) == []
    assert warn_of_cut(found.model_copy(update={"metric": "macs"}), has_validation=True) == []


def test_a_target_below_the_smallest_model_ends_the_job_with_the_nearest(uploads, tmp_path):
    target = {"metric": "parameters", "value": 10}
    with pytest.raises(UnreachableTarget, match="the nearest reachable is"):
        run_job(tmp_path / "work", make_spec(uploads, structure={"target": target}))
