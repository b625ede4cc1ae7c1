"""EDM's augmentation: what is done is what the conditions say."""

import math

import pytest
import torch

from overtone.processes import SeededNoise
from overtone.processes.noise import mix
from overtone.training.augment import CONDITIONS, augment

NEVER, ALWAYS = 0.999, 0.001  # uniform draws against a probability of one half
MIDDLE = 0.5  # a normal draw of 0


class Fixed(SeededNoise):
    """Hands out these uniform draws in turn, for one image."""

    def __init__(self, draws):
        self.draws = iter(draws)

    def uniform(self):
        return torch.tensor([next(self.draws)], dtype=torch.float64)


def drawn(images, *, flip_x=NEVER, flip_y=None, scale=None, angle=None, stretch=None, move=None):
    """`augment` with chosen parameters; None leaves that part out."""
    draws = [flip_x]
    draws += [NEVER, MIDDLE] if flip_y is None else [ALWAYS, flip_y]
    draws += [NEVER, MIDDLE] if scale is None else [ALWAYS, quantile(scale)]
    draws += [NEVER, MIDDLE] if angle is None else [ALWAYS, angle / (2 * math.pi) + 0.5]
    if stretch is None:
        draws += [NEVER, MIDDLE, NEVER, MIDDLE]
    else:
        draws += [ALWAYS, quantile(stretch[0]), ALWAYS, stretch[1] / (2 * math.pi) + 0.5]
    draws += [NEVER, MIDDLE, MIDDLE] if move is None else [ALWAYS, *map(quantile, move)]
    return augment(images, 0.5, Fixed(draws))


def quantile(z):
    return float(torch.special.ndtr(torch.tensor(z, dtype=torch.float64)))


@pytest.fixture
def smooth():
    """A picture without high frequencies, unlike in every direction."""
    return bump(*places())


def places():
    """x and y of 32 x 32 pixels, from -1 to 1."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, 32), torch.linspace(-1, 1, 32), indexing="ij")
    return x, y


def bump(x, y):
    return torch.exp(-4 * ((x - 0.2) ** 2 + 2 * (y + 0.3) ** 2))[None, None]


def inside(images):
    return images[:, :, 6:-6, 6:-6]


def test_nothing_drawn_leaves_the_image_bit_for_bit(smooth):
    out, conditions = drawn(smooth)
    assert torch.equal(out, smooth)
    assert conditions.tolist() == [[0.0] * CONDITIONS]


def test_flips_are_exact(smooth):
    out, conditions = drawn(smooth, flip_x=ALWAYS, flip_y=ALWAYS)
    assert torch.equal(out, smooth.flip((2, 3)))
    assert conditions[0].tolist() == [1, 1, 0, 0, 0, 0, 0, 0, 0]


def test_a_quarter_turn_is_a_quarter_turn(smooth):
    out, conditions = drawn(smooth, angle=math.pi / 2)
    assert torch.allclose(inside(out), inside(smooth.rot90(1, (2, 3))), atol=0.01)
    assert conditions[0, 3:5].tolist() == pytest.approx([-1, 1])


def test_moving_by_whole_pixels_is_a_shift(smooth):
    out, conditions = drawn(smooth, move=(1.0, -0.5))  # 32 / 8 = 4 pixels right, 2 up
    assert torch.allclose(inside(out), inside(smooth.roll((-2, 4), (2, 3))), atol=0.01)
    assert conditions[0, 7:].tolist() == pytest.approx([1.0, -0.5], abs=1e-5)


def centre_and_spread(image):
    y, x = torch.meshgrid(torch.arange(32) - 15.5, torch.arange(32) - 15.5, indexing="ij")
    weight = image[0, 0] / image.sum()
    cx, cy = float((weight * x).sum()), float((weight * y).sum())
    spread_x = float((weight * (x - cx) ** 2).sum()) ** 0.5
    spread_y = float((weight * (y - cy) ** 2).sum()) ** 0.5
    return cx, cy, spread_x, spread_y


def test_scaling_and_stretching_change_the_spread():
    y, x = torch.meshgrid(torch.linspace(-1, 1, 32), torch.linspace(-1, 1, 32), indexing="ij")
    blob = torch.exp(-30 * (x**2 + y**2))[None, None]
    _, _, wide, high = centre_and_spread(blob)
    larger, conditions = drawn(blob, scale=2.0)
    assert conditions[0, 2] == pytest.approx(2.0, abs=1e-5)
    for before, after in zip((wide, high), centre_and_spread(larger)[2:], strict=True):
        assert after / before == pytest.approx(2**0.4, rel=0.02)
    stretched, conditions = drawn(blob, stretch=(2.0, 0.0))  # along x
    assert conditions[0, 5:7].tolist() == pytest.approx([2.0, 0.0], abs=1e-5)
    _, _, wider, lower = centre_and_spread(stretched)
    assert wider / wide == pytest.approx(2**0.4, rel=0.02)
    assert lower / high == pytest.approx(2**-0.4, rel=0.02)


def test_a_slanted_stretch_lies_along_its_axis():
    y, x = torch.meshgrid(torch.linspace(-1, 1, 32), torch.linspace(-1, 1, 32), indexing="ij")
    blob = torch.exp(-30 * (x**2 + y**2))[None, None]
    out, conditions = drawn(blob, stretch=(2.0, math.pi / 4))
    assert conditions[0, 5:7].tolist() == pytest.approx([2**0.5] * 2, abs=1e-5)
    weight = out[0, 0] / out.sum()
    # Anticlockwise as one looks at it, y pointing down: from bottom left to top right.
    assert float((weight * x * y).sum()) < -0.001


@pytest.mark.parametrize("angle", [0.5, math.pi / 4, -2.0])
def test_a_stretch_is_its_formula(smooth, angle):
    # u lies along the axis, v across it: p shows what was at 2^(-s/5) (p.u) u + 2^(s/5) (p.v) v.
    x, y = places()
    u, v = (math.cos(angle), -math.sin(angle)), (math.sin(angle), math.cos(angle))
    along = 2**-0.2 * (x * u[0] + y * u[1])
    across = 2**0.2 * (x * v[0] + y * v[1])
    expected = bump(along * u[0] + across * v[0], along * u[1] + across * v[1])
    out, _ = drawn(smooth, stretch=(1.0, angle))
    assert torch.allclose(inside(out), inside(expected), atol=0.01)


def test_half_of_the_stretches_are_along_x():
    n = 4000
    _, c = augment(torch.rand(n, 1, 4, 4), 1.0, SeededNoise(mix(6, i) for i in range(n)))
    assert abs(int((c[:, 6] == 0).sum()) - n / 2) < 5 * (n / 4) ** 0.5


def test_each_happens_as_often_as_asked():
    n, p = 4000, 0.15
    images = torch.rand(n, 1, 4, 4)
    _, c = augment(images, p, SeededNoise(mix(5, i) for i in range(n)))
    # Binomial: 5 standard deviations, exceeded with probability 6e-7 each.
    for happened, chance in [
        (c[:, 0] == 1, 0.5), (c[:, 1] == 1, p / 2), (c[:, 2] != 0, p),
        (c[:, 3:5].any(1), p), (c[:, 5:7].any(1), p), (c[:, 7:].any(1), p),
    ]:  # fmt: skip
        assert abs(int(happened.sum()) - chance * n) < 5 * (n * chance * (1 - chance)) ** 0.5


def test_colours_stay_in_range_and_images_keep_their_own():
    images = torch.rand(64, 3, 8, 8) * 2 - 1
    out, _ = augment(images, 1.0, SeededNoise(range(64)))
    assert out.shape == images.shape
    assert float(out.abs().max()) < 1.5  # bicubic overshoots a little
    alone, _ = augment(images[9:10], 1.0, SeededNoise([9]))
    assert torch.allclose(out[9], alone[0], atol=1e-5)
