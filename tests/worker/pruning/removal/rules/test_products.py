"""Products and attention have a rule for every kernel that torch may choose."""

import torch

from worker.pruning.removal.rules.registry import rules


def test_every_kernel_of_attention_has_a_rule() -> None:
    kernels = {schema.name.replace("::", ".") for schema in torch._C._jit_get_all_schemas()}
    kernels = {
        name
        for name in kernels
        if name.startswith("aten._scaled_dot_product") and not name.endswith(("backward", "quantized"))
    }
    assert "aten._scaled_dot_product_flash_attention_for_cpu" in kernels
    assert kernels - rules().keys() == set()
