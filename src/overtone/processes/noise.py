"""Randomness is an argument: everything random but initial weights and dropout, which are torch's,
is drawn from a noise source handed in.

`SeededNoise` owns one generator an image, keyed by that image's seed. The noise of an image is
therefore the same in any batch, on any device, over any number of processes: generators live on
the host and their draws are moved to where the images are.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import cache
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

SEED_LIMIT = 2**32  # torch's host generator keeps 32 bits of its seed
PARALLEL_DRAW = 2**14  # numbers an image, from where on a thread each is faster


class NoiseSource(ABC):
    """Draws standard normal noise for a batch of images."""

    @property
    def generators(self) -> Sequence[torch.Generator] | None:
        """torch's generator of each image, where there is one."""
        return None

    @abstractmethod
    def normal(self, like: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch ..."]:
        """N(0, I) in the shape, dtype and device of `like`, in new memory."""


class SeededNoise(NoiseSource):
    """One generator an image; image b of every draw comes from `seeds[b]` alone.

    Equal to drawing from `torch.Generator().manual_seed(seed)` in float32, image by image. With
    `ahead` a draw that repeats the shape of the one before it has a thread draw the next already,
    which is put back if something else is asked for. If left out, so it is for images on a GPU,
    which the host would else keep waiting for their noise.
    Seeds are in [0, 2^32); raises `ValueError` for any other.
    """

    def __init__(self, seeds: Iterable[int], *, ahead: bool | None = None) -> None:
        self._generators: list[torch.Generator] = []
        for seed in seeds:
            if not 0 <= seed < SEED_LIMIT:
                raise ValueError(f"seed {seed} is not in [0, 2^32)")
            self._generators.append(torch.Generator().manual_seed(seed))
        self._looks_ahead = ahead
        self._last: torch.Size | None = None
        self._next: _Next | None = None

    @property
    def generators(self) -> list[torch.Generator]:
        self._put_back()
        return self._generators

    def normal(self, like: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch ..."]:
        if len(like) != len(self._generators):
            raise ValueError(f"{len(self._generators)} seeds can't draw for {len(like)} images")
        shape, pinned = like.shape, like.is_cuda
        if self._next is not None and self._next.shape == shape:
            noise, self._next = self._next.drawn.result(), None
        else:
            noise = _filled(_new(shape, pinned), self.generators)
        looks_ahead = pinned if self._looks_ahead is None else self._looks_ahead
        if looks_ahead and self._last == shape:
            states = [generator.get_state() for generator in self._generators]
            drawn = _beside().submit(_filled, _new(shape, pinned), self._generators)
            self._next = _Next(shape, states, drawn)
        self._last = shape
        return noise.to(like, non_blocking=pinned)  # from pinned memory: nothing waits

    def _put_back(self) -> None:
        """Have the generators as they are without what was drawn ahead."""
        if self._next is None:
            return
        wait([self._next.drawn])
        for generator, state in zip(self._generators, self._next.states, strict=True):
            generator.set_state(state)
        self._next = None

    def uniform(self) -> Float[Tensor, " batch"]:
        """One draw an image from the open interval (0, 1), float64 on the host."""
        draws = [torch.rand((), generator=g, dtype=torch.float64) for g in self.generators]
        # torch.rand gives multiples of 2^-53, zero included; half a step keeps both ends out.
        return torch.stack(draws) + 2.0**-54


class _Next(NamedTuple):
    """Noise that is drawn ahead, and the generators' states before it."""

    shape: torch.Size
    states: list[Tensor]
    drawn: Future[Tensor]


def _new(shape: torch.Size, pinned: bool) -> Tensor:
    with torch.inference_mode(False):  # which each thread has for itself
        return torch.empty(shape, pin_memory=pinned)


def _filled(noise: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    work = zip(noise, generators, strict=True)
    if noise.numel() < PARALLEL_DRAW * len(noise) or torch.get_num_threads() == 1:
        for row in work:
            _draw(row)
    else:
        for _ in _threads().map(_draw, work):
            pass
    return noise


def _draw(work: tuple[Tensor, torch.Generator]) -> None:
    row, generator = work
    row.normal_(generator=generator)


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(torch.get_num_threads(), "overtone-noise")


@cache
def _beside() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, "overtone-noise-ahead")


if hasattr(os, "register_at_fork"):  # a child has none of its parent's threads
    os.register_at_fork(after_in_child=_threads.cache_clear)
    os.register_at_fork(after_in_child=_beside.cache_clear)


class ReplayNoise(NoiseSource):
    """Hands out recorded draws in their order; for tests against reference implementations."""

    def __init__(self, draws: Sequence[Tensor] | Tensor) -> None:
        self.draws = iter(draws)

    def normal(self, like: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch ..."]:
        try:
            draw = next(self.draws)
        except StopIteration:
            raise ValueError("more noise was asked for than was recorded") from None
        if draw.shape != like.shape:
            raise ValueError(f"recorded noise is {tuple(draw.shape)}, not {tuple(like.shape)}")
        return draw.to(like, copy=True)


def mix(*numbers: int) -> int:
    """A seed in [0, 2^32) from several numbers, their neighbourhoods scattered (splitmix64)."""
    mask = 2**64 - 1
    state = 0
    for number in numbers:
        state = (state ^ number) + 0x9E3779B97F4A7C15 & mask
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & mask
        state = (state ^ state >> 27) * 0x94D049BB133111EB & mask
        state ^= state >> 31
    return state >> 32
