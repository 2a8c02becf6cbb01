"""Inputs of layers: a convolution is a product with its windows, and padding tokens do not count."""

import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.worker.pruning.criteria.tiny import statistics_of
from worker.pruning.statistics.activations import input_windows


@given(
    rank=st.integers(1, 3),
    size=st.integers(1, 3),
    stride=st.integers(1, 2),
    padding=st.integers(0, 2),
    dilation=st.integers(1, 2),
    groups=st.sampled_from([1, 2, 4]),
    mode=st.sampled_from(["zeros", "reflect", "replicate", "circular"]),
)
@settings(max_examples=60, deadline=None)
def test_a_convolution_is_its_weight_times_the_windows(rank, size, stride, padding, dilation, groups, mode):
    assume(mode == "zeros" or rank < 3 or padding < 2)
    kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[rank - 1]
    conv = kind(
        4, 8, size, stride=stride, padding=padding, dilation=dilation, groups=groups, bias=False,
        padding_mode=mode,
    )  # fmt: skip
    x = torch.randn(2, 4, *[6, 5, 5][:rank])
    windows = input_windows(conv, x)  # [rows, groups, features]
    rows = conv.weight.flatten(1).view(groups, 8 // groups, -1)
    product = torch.einsum("rgf,gof->rgo", windows, rows).flatten(1)  # [rows, out]
    torch.testing.assert_close(product, conv(x).movedim(1, -1).reshape(-1, 8), rtol=1e-4, atol=1e-5)


def test_same_padding_is_followed_where_it_is_uneven():
    conv, x = nn.Conv1d(3, 2, 4, padding="same", dilation=2, bias=False), torch.randn(2, 3, 9)
    product = input_windows(conv, x)[:, 0] @ conv.weight.flatten(1).t()
    torch.testing.assert_close(product, conv(x).movedim(1, -1).reshape(-1, 2))
    uneven, x = nn.Conv1d(3, 2, 3, padding=2, stride=2, bias=False), torch.randn(2, 3, 8)
    product = input_windows(uneven, x)[:, 0] @ uneven.weight.flatten(1).t()
    torch.testing.assert_close(product, uneven(x).movedim(1, -1).reshape(-1, 2))


class _Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, states: Tensor, attention_mask: Tensor) -> Tensor:
        return self.linear(states)[:, 0]


def test_padding_tokens_do_not_count():
    model, states = _Tokens(), torch.randn(2, 5, 4)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    noisy = states.clone()
    noisy[mask == 0] = 1e6
    reads = ("input_norm", "input_gram", "output_magnitude", "output_zero_fraction")
    stats = statistics_of(
        model, "linear.weight", *reads, data=[({"states": noisy, "attention_mask": mask}, None)]
    )
    real = states[mask == 1]  # 8 tokens
    torch.testing.assert_close(stats.input_norm[0], real.square().sum(0).sqrt())
    torch.testing.assert_close(stats.input_gram[0], real.t() @ real / 8)
    outputs = model.linear(real).detach()
    torch.testing.assert_close(stats.output_magnitude, outputs.abs().mean(0))
    torch.testing.assert_close(stats.output_zero_fraction, (outputs <= 0).float().mean(0))
