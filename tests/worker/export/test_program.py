"""A model as a program of torch.export answers what the model does, at other sizes too."""

import pytest
import torch
import transformers
from torch import nn

from app.core.errors import ExportMismatch, OutOfMemory, StorageFull
from benchmarks.removal import _CONFIGS
from worker.export.program import run_program, write_program
from worker.models.inputs import compute_logits
from worker.models.registry import build

IMAGES = ("resnet-20", "efficientnet-b0")
# Of each make of mask one: seen from both sides, from one, and by grouped queries.
TEXTS = ("bert", "gpt2", "qwen3, grouped queries")


@pytest.mark.parametrize("name", IMAGES)
def test_networks_for_images_take_any_batch(name, tmp_path):
    network = build({"library": "secateur", "name": name, "params": {}})
    module, shape = network.module.eval(), network.inputs.shape
    write_program(module, torch.rand(2, *shape), tmp_path / "model.pt2")
    program = torch.export.load(tmp_path / "model.pt2").module()
    for n in (1, 3):
        inputs = torch.rand(n, *shape)
        with torch.no_grad():
            assert torch.allclose(program(inputs), module(inputs), atol=1e-5)


@pytest.mark.parametrize("name", TEXTS)
def test_models_of_text_take_any_batch_and_length(name, tmp_path):
    config, architecture, fields = _CONFIGS[name]
    torch.manual_seed(0)
    module = getattr(transformers, architecture)(getattr(transformers, config)(**fields, vocab_size=64))
    module.eval().config.use_cache = False
    names = ("input_ids", "attention_mask", *(["token_type_ids"] if name == "bert" else []))

    def draw(n, tokens):
        ids = torch.randint(5, 64, (n, tokens))
        mask = torch.ones_like(ids)
        mask[0, tokens // 2 :] = 0
        return dict(zip(names, (ids, mask, torch.zeros_like(ids)), strict=False))

    write_program(module, draw(2, 9), tmp_path / "model.pt2")
    program = torch.export.load(tmp_path / "model.pt2").module()
    for n, tokens in ((1, 12), (3, 5)):
        inputs = draw(n, tokens)
        with torch.no_grad():
            assert torch.allclose(program(**inputs), compute_logits(module, inputs), atol=1e-5)


def test_a_model_that_cannot_be_traced_is_refused_with_the_reason(tmp_path):
    class Branches(nn.Module):
        def forward(self, x):
            return x if bool(x.sum() > 0) else -x

    with pytest.raises(ExportMismatch, match="cannot be written as pt2: "):
        write_program(Branches(), torch.rand(2, 3), tmp_path / "model.pt2")


def test_a_lack_of_memory_is_not_the_models_fault(tmp_path):
    class Greedy(nn.Module):
        def forward(self, x):
            raise MemoryError("no room for the program")

    with pytest.raises(MemoryError, match="no room"):
        write_program(Greedy(), torch.rand(2, 3), tmp_path / "model.pt2")


def test_a_file_that_is_no_program_is_named(tmp_path):
    (tmp_path / "model.pt2").write_bytes(b"no zip")
    with pytest.raises(ExportMismatch, match="does not run in a process with torch alone"):
        run_program(tmp_path / "model.pt2", [torch.rand(1, 3)], tmp_path)


def test_a_program_that_finds_no_memory_is_not_called_broken(tmp_path):
    class Greedy(nn.Module):
        def forward(self, x):
            return x + torch.zeros(1 << 50).sum()

    write_program(Greedy(), torch.rand(2, 3), tmp_path / "model.pt2")
    with pytest.raises(OutOfMemory, match="no memory left to check the exported file"):
        run_program(tmp_path / "model.pt2", [torch.rand(1, 3)], tmp_path)


def test_a_program_whose_answers_find_no_room_is_not_called_broken(tmp_path):
    write_program(nn.Linear(3, 2), torch.rand(2, 3), tmp_path / "model.pt2")
    (tmp_path / "case-1-output.bin").symlink_to("/dev/full")
    with pytest.raises(StorageFull):
        run_program(tmp_path / "model.pt2", [torch.rand(1, 3), torch.rand(4, 3)], tmp_path)
