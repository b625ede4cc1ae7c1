"""The temporal convolution, against Fourier transforms and sums written out."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from helpers import Golden, deviation
from overtone.convert import from_published
from overtone.networks.spectral import TemporalConv

SIZES = [(m, j) for m in range(1, 10) for j in range(1, m // 2 + 2)]


def a_layer(channels=6, modes=2, groups=1):
    layer = TemporalConv(channels, modes, groups).double()
    nn.init.normal_(layer.weight)
    return layer


def complex_weights(layer):
    """R, (in, out, mode)."""
    weight = layer.weight[:, 0]
    parts = [torch.complex(weight[0], torch.zeros_like(weight[0]))]
    parts += [torch.complex(weight[k], weight[k + 1]) for k in range(1, len(weight), 2)]
    return torch.stack(parts, dim=-1)


def kernel_part(layer, u):
    """K u, the layer's output before the activation, from the activation's inverse."""
    out = layer(u) - u
    return torch.where(out < 0, out / 0.01, out)


@pytest.mark.parametrize("modes", [2, 3])
def test_the_layer_is_the_published_one(modes):
    golden = Golden("temporal_conv")
    layer = from_published("temporal-conv", {"weights1": golden[f"modes{modes}.weights"]})
    with torch.no_grad():
        out = layer(golden[f"modes{modes}.in"])
        last = layer(golden[f"modes{modes}.in"], last=True)
    assert deviation(out, golden[f"modes{modes}.out"]) < 1e-6
    assert deviation(last, golden[f"modes{modes}.out"][:, -1:]) < 1e-6


@pytest.mark.parametrize(("times", "modes"), SIZES)
def test_it_is_a_truncated_product_in_torchs_fourier_space(times, modes):
    layer, u = a_layer(modes=modes), torch.randn(2, times, 6, 2, 3, dtype=torch.float64)
    product = torch.zeros_like(torch.fft.rfft(u, dim=1))
    product[:, :modes] = torch.einsum(
        "bmihw,iom->bmohw", torch.fft.rfft(u, dim=1)[:, :modes], complex_weights(layer)
    )
    expected = torch.fft.irfft(product, n=times, dim=1)
    torch.testing.assert_close(kernel_part(layer, u), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("times", "modes"), SIZES)
def test_it_is_a_dense_circular_convolution(times, modes):
    layer, u = a_layer(modes=modes), torch.randn(2, times, 6, 2, 3, dtype=torch.float64)
    # Its response to an impulse at time 0 in channel i is its kernel.
    impulses = torch.zeros(6, times, 6, 1, 1, dtype=torch.float64)
    impulses[range(6), 0, range(6)] = 1.0
    kernel = kernel_part(layer, impulses)[..., 0, 0]  # (in, time, out)
    expected = torch.zeros_like(u)
    for m in range(times):
        for n in range(times):
            expected[:, m] += torch.einsum("bihw,io->bohw", u[:, n], kernel[:, (m - n) % times])
    torch.testing.assert_close(kernel_part(layer, u), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("times", "modes"), [(3, 2), (4, 2), (5, 3), (7, 4), (8, 4)])
def test_a_band_limited_signal_gives_the_same_function_at_twice_the_samples(times, modes):
    layer = a_layer(modes=modes)
    amplitudes = torch.randn(2 * modes - 1, 2, 6, 2, 3, dtype=torch.float64)

    def signal(count):
        t = torch.arange(count, dtype=torch.float64) / count
        waves = [torch.ones_like(t)]
        for k in range(1, modes):
            waves += [torch.cos(2 * torch.pi * k * t), torch.sin(2 * torch.pi * k * t)]

        return torch.einsum("km,kbchw->bmchw", torch.stack(waves), amplitudes)

    coarse, fine = layer(signal(times)), layer(signal(2 * times))
    torch.testing.assert_close(fine[:, ::2], coarse, rtol=1e-9, atol=1e-9)


def test_modes_beyond_the_times_are_left_out_and_said_so():
    layer, u = a_layer(modes=3), torch.randn(1, 2, 6, 1, 1, dtype=torch.float64)
    with pytest.warns(UserWarning, match="2 times have 2 modes"):
        out = layer(u)
    fewer = TemporalConv(6, 2).double()
    fewer.load_state_dict({"weight": layer.weight[:3]})
    torch.testing.assert_close(out, fewer(u))


def test_groups_of_channels_do_not_mix():
    layer, u = a_layer(modes=2, groups=3), torch.randn(1, 4, 6, 1, 1, dtype=torch.float64)
    changed = u.clone()
    changed[:, :, 2:4] += 1
    same = (layer(u) == layer(changed)).all(dim=1)[0, :, 0, 0]
    assert same.tolist() == [True, True, False, False, True, True]
    parts = [TemporalConv(2, 2).double() for _ in range(3)]
    for number, part in enumerate(parts):
        part.load_state_dict({"weight": layer.weight[:, number : number + 1]})
    apart = torch.cat([part(x) for part, x in zip(parts, u.chunk(3, 2), strict=True)], 2)
    torch.testing.assert_close(layer(u), apart)


def test_it_starts_as_the_identity_and_every_weight_learns():
    layer, u = TemporalConv(4, 3), torch.randn(2, 8, 4, 2, 2)
    assert torch.equal(layer(u), u)
    (layer(u) * torch.randn(2, 8, 4, 2, 2)).sum().backward()
    assert bool((layer.weight.grad != 0).all())


class NoComplex(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        assert not (isinstance(out, torch.Tensor) and out.is_complex()), function
        return out


def test_under_autocast_it_stays_close_and_no_complex_number_is_made():
    layer, u = a_layer(16, 2).float(), torch.randn(2, 4, 16, 4, 4)
    exact = layer(u)
    with NoComplex(), torch.autocast("cpu", torch.bfloat16):
        rounded = layer(u)
        half = layer(u.bfloat16())
    assert deviation(rounded.detach(), exact.detach()) < 0.02
    assert deviation(half.detach().float(), exact.detach()) < 0.02
    assert half.dtype == torch.bfloat16


def test_what_a_layer_cannot_be():
    with pytest.raises(ValueError, match="at least one mode"):
        TemporalConv(4, 0)
    with pytest.raises(ValueError, match="3 groups"):
        TemporalConv(4, 2, groups=3)
