"""Gradients that are scaled down to a norm, in the step that reads them anyway."""

import copy

import pytest
import torch

from overtone.training.clipping import step_clipped


@pytest.mark.parametrize("limit", [None, 1e-3, 0.5, 100.0])
def test_a_clipped_step_is_that_of_torchs_own_clipping(limit):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Tanh(), torch.nn.Linear(7, 3))
    other = copy.deepcopy(model)
    ours, theirs = (torch.optim.Adam(m.parameters(), 1e-2, fused=True) for m in (model, other))
    for _ in range(4):
        x = torch.randn(16, 5)
        for one in (model, other):
            one.zero_grad(set_to_none=True)
            one(x).square().sum().backward()
        found = step_clipped(ours, limit)
        wanted = torch.nn.utils.clip_grad_norm_(other.parameters(), limit or float("inf"))
        theirs.step()
        assert float(found) == pytest.approx(float(wanted), rel=1e-6)
        for a, b in zip(ours.state.values(), theirs.state.values(), strict=True):
            assert torch.allclose(a["exp_avg"], b["exp_avg"], rtol=1e-5, atol=1e-9)
        for a, b in zip(model.parameters(), other.parameters(), strict=True):
            assert torch.allclose(a, b, rtol=1e-5, atol=1e-6)


def test_what_is_not_clipped_is_not_touched():
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.Adam([weight], fused=True)
    weight.grad = torch.tensor([0.1, 0.2, 0.3])
    version = weight.grad._version
    step_clipped(optimizer, 1.0)
    assert weight.grad._version == version
    assert optimizer.grad_scale is None
