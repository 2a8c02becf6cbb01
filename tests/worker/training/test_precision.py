"""bfloat16 where the device computes in it, float32 where it would only stand in for it."""

import pytest
import torch

from tests.worker.training.recoveries import recover
from worker.training.precision import computes_in_bfloat16

CPU = torch.device("cpu")


@pytest.fixture
def set_capabilities(monkeypatch):
    def set_to(**capabilities: bool) -> None:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)

    return set_to


@pytest.mark.parametrize("name", ["avx512_bf16", "amx_bf16", "bf16"])
def test_a_cpu_with_such_instructions_computes_in_bfloat16(set_capabilities, name):
    set_capabilities(avx2=True, **{name: True})
    assert computes_in_bfloat16(CPU)


def test_a_cpu_without_them_does_not(set_capabilities):
    set_capabilities(avx2=True, avx512_f=True, avx512_bf16=False)
    assert not computes_in_bfloat16(CPU)


@pytest.mark.parametrize("has_bfloat16", [True, False])
def test_the_precision_changes_the_numbers_only_where_it_exists_and_never_the_types(
    set_capabilities, has_bfloat16
):
    set_capabilities(avx512_bf16=has_bfloat16)
    one, two = (recover(max_steps=4, precision=p).tensors() for p in ("float32", "bfloat16"))
    assert any(not torch.equal(one[name], two[name]) for name in one) == has_bfloat16
    assert {t.dtype for t in two.values()} <= {torch.float32, torch.int64, torch.bool}
