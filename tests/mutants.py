"""Wrong formulas, one at a time, and whether the tests notice.

    python tests/mutants.py             all of them (`make mutants`)
    python tests/mutants.py flow ema    those whose file or line has one of the words

A mutant is one place of the source with a mistake that somebody could make: a sign, a factor, an
exponent, two things that changed places. The tests that should notice it run on a copy of the
source with the mistake. A mutant that they let pass survives; the exit code is 1 if one does, or if
a mutant's line is no longer in the source. Two run at a time.
"""

# ruff: noqa: E501, as both sides of a change are easier to compare on one line
from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from queue import Queue
from typing import NamedTuple

TESTS = Path(__file__).parent
SOURCE = TESTS.parent / "src"
WORKERS = 2
CLOCK = count(1)
"""Each mutant's file gets a time of its own: Python would take the last one's bytecode else."""


class Mutant(NamedTuple):
    """A place of the source, and what is written there instead."""

    file: str
    """below src/overtone"""
    right: str
    """occurs in the file once"""
    wrong: str
    tests: str
    """names of test files, without test_ and .py"""

    @property
    def name(self) -> str:
        return f"{self.file}: {self.right.strip().splitlines()[-1].strip()}"


def _mutants() -> Iterator[Mutant]:
    for (file, tests), changes in CHANGES.items():
        for right, wrong in changes:
            yield Mutant(file, right, wrong, tests)


CHANGES = {
    ("processes/schedule.py", "processes relay"): [
        ("self.P_mean + self.P_std * normal_quantile", "self.P_mean - self.P_std * normal_quantile"),
        ("normal_quantile(clamp(self.prob_length * t,", "normal_quantile(clamp(t,"),
        ("self.prob_length * self._cdf(float(self.truncate_sigma)", "self._cdf(float(self.truncate_sigma)"),
        ("(self.beta_max - self.beta_min) / 2 * t", "(self.beta_max - self.beta_min) * t"),
        ("root = 2 * log / (", "root = log / ("),
        ("m.tan(a * t + b)", "m.tan(a * t)"),
        ("b = math.atan(math.exp(-self.log_snr_max / 2))", "b = math.atan(math.exp(-self.log_snr_max))"),
        ("(self.sigma_max / self.sigma_min) ** t", "(self.sigma_max / self.sigma_min) ** t**2"),
    ],
    ("processes/discrete.py", "processes posterior guidance latent_diffit"): [
        ("math.sqrt((1 - abar) / abar)", "math.sqrt(1 - abar)"),
        ("(t + 0.008) / 1.008", "t"),
        ("(roots[0] + (roots[1] - roots[0]) * t) ** 2", "(roots[0] + (roots[1] - roots[0]) * t)"),
        (".floor().clamp(max=count - 1) / (count - 1)", ".floor().clamp(max=count - 1) / count"),
        ("self.t_at(sigma) * (count - 1) / count", "self.t_at(sigma)"),
        ("m.lerp(logs[low], logs[low + 1], place - low)", "m.lerp(logs[low + 1], logs[low], place - low)"),
    ],
    ("processes/flow.py", "flow"): [
        ("sigma = place / (1 - place)", "sigma = place / (1 + place)"),
        ("m.exp(self.mean + self.std * normal_quantile(place))", "m.exp(self.mean + normal_quantile(place))"),
        ("place = low + (high - low) * t", "place = high * t"),
    ],
    ("processes/relay.py", "relay"): [
        ("(math.pi / 2 * t).sin() ** 2", "(math.pi / 2 * t).sin()"),
        ("(1 + self.block_scale**2) ** -0.5", "(1 + self.block_scale) ** -0.5"),
        ("(1 - self.min_scale) * k[..., :, None]", "k[..., :, None]"),
        ("alpha=self.block_scale)", "alpha=self.block_scale**2)"),
    ],
    ("processes/patches.py", "relay"): [
        ("blur[..., None] ** 2 / 2", "blur[..., None] ** 2"),
        ("matrix[0] /= math.sqrt(2)", "matrix[0] *= math.sqrt(2)"),
        ("sums.mul_(1 / size)", "sums.mul_(1 / size**2)"),
        ("(1 - min_scale) * both + min_scale * one", "both + min_scale * one"),
        ("axis = dct_matrix(size).T.contiguous()", "axis = dct_matrix(size)"),
        ("gamma * process.blur(sigma)", "process.blur(sigma)"),
    ],
    ("processes/posterior.py", "posterior"): [
        ("lower = below**2 * (1 - self.ratio)", "lower = below**2 * self.ratio"),
        ("lower[1] / (1 + levels[0] ** 2)", "lower[1]"),
        ("torch.log((1 + below**2) * (", "torch.log(1 * ("),
        ("(v + 1) / 2 * (log_upper - log_lower)", "v / 2 * (log_upper - log_lower)"),
        ("(1 - ratio) ** 2 * error**2", "(1 - ratio) * error**2"),
        ("(log_variance - log_lower - 1 +", "(log_variance - log_lower +"),
        ("HALF_BIN = 1 / 255", "HALF_BIN = 2 / 255"),
        ("likelihood, divergence) / LN_2", "likelihood, divergence)"),
    ],
    ("processes/vp_frame.py", "dsno distill trajectories"): [
        ("x * (1 + sigma**2) ** -0.5", "x * (1 + sigma**2) ** -1"),
        ("z * (1 + sigma**2) ** 0.5", "z * (1 + sigma**2)"),
        ('power = 2 if spacing == "quad" else 1', "power = 1"),
    ],
    ("denoisers/preconditioning.py", "denoisers diffusers flow foreign dsno"): [
        ("self.sigma_data**2 / (sigma**2 +", "sigma**2 / (sigma**2 +"),
        ("c_out = sigma * self.sigma_data / (sigma**2 + self.sigma_data**2) ** 0.5",
         "c_out = sigma * self.sigma_data / (sigma**2 + self.sigma_data**2)"),
        ("return (sigma**2 + self.sigma_data**2) ** -0.5", "return (sigma**2 + self.sigma_data**2) ** -1"),
        ("_log(sigma) / 4", "_log(sigma) / 2"),
        ("return -c_out if self.negated", "return c_out if self.negated"),
        ('if self.prediction == "v":\n            return 1 / (1 + sigma**2)',
         'if self.prediction == "v":\n            return 1 / (1 + sigma**2) ** 0.5'),
        ("else -sigma / (1 + sigma**2) ** 0.5", "else -sigma / (1 + sigma**2)"),
        ("_log(sigma / 2)", "_log(sigma)"),
        ("return sigma**2", "return sigma"),
        ("return -sigma / (1 + sigma)", "return sigma / (1 + sigma)"),
        ("self.time_scale * sigma / (1 + sigma)", "self.time_scale * sigma"),
        ("return self.c_out(sigma) ** -2", "return self.c_out(sigma) ** 2"),
        ("(x_0 - self.c_skip(sigma) * x) / self.c_out(sigma)",
         "(x_0 - self.c_skip(sigma) * x) * self.c_out(sigma)"),
        ("def c_out(self, sigma: S) -> S:\n        return (1 + sigma**2) ** 0.5",
         "def c_out(self, sigma: S) -> S:\n        return (1 + sigma**2) ** -0.5"),
    ],
    ("denoisers/guided.py", "guidance latent_diffit denoisers"): [
        ("torch.lerp(worse, own, scale)", "torch.lerp(own, worse, scale)"),
        ("null = torch.full_like(class_labels, self.num_classes)", "null = torch.zeros_like(class_labels)"),
        ("if low <= sigma <= high else None", "if not low <= sigma <= high else None"),
        ("self._scaled(own.x_0[:, at], worse[:, at], level)", "own.x_0[:, at]"),
        ("alpha=high - scale", "alpha=high"),
        ("difference - rows @ difference @ columns", "rows @ difference @ columns"),
    ],
    ("denoisers/guidance.py", "guidance"): [
        ("(1 - time) ** self.power", "time**self.power"),
        ("1 + (self.scale - 1) * self._strength(time)", "self.scale * self._strength(time)"),
    ],
    ("denoisers/experts.py", "experts"): [
        ("enumerate(self.intervals) if sigma <= high", "enumerate(self.intervals) if sigma < high"),
        ("torch.bucketize(sigma.to(wide), edges)", "torch.bucketize(sigma.to(wide), edges, right=True)"),
        ("torch.cat(places).argsort()", "torch.cat(places)"),
    ],
    ("denoisers/ideal.py", "denoisers samplers"): [
        ("logits = cross - squares / 2", "logits = cross - squares"),
        ("total = self.eigenvalues + sigma**2", "total = self.eigenvalues + sigma"),
    ],
    ("denoisers/kept.py", "repaint edit"): [
        ("torch.where(self.mask, self.x_0.to(estimate.x_0), estimate.x_0)", "torch.where(self.mask, estimate.x_0, self.x_0.to(estimate.x_0))"),
    ],
    ("samplers/sampler.py", "samplers"): [
        ("(i / max(num_steps - 1, 1) for i", "(i / num_steps for i"),
        ("math.sqrt(1 - self.eta**2) * sigma_next / sigma", "(1 - self.eta) * sigma_next / sigma"),
        ("alpha=self.eta * sigma_next", "alpha=self.eta * sigma"),
        ("1 - (1 - kept) / self.epsilon_scale", "kept / self.epsilon_scale"),
        ("math.sqrt(raised**2 - sigma**2) * self.S_noise", "(raised - sigma) * self.S_noise"),
        ("min(self.S_churn / self.num_steps, math.sqrt(2) - 1)", "min(self.S_churn, math.sqrt(2) - 1)"),
    ],
    ("samplers/estimates.py", "samplers"): [
        ("sigma / 2 * (slope + slope_next)", "sigma * slope_next"),
        ("(x_0 + denoise(advance(x_0), sigma_next)) / 2", "denoise(advance(x_0), sigma_next)"),
        ("(2 * (lambdas[0] - lambdas[1]))", "(lambdas[0] - lambdas[1])"),
        ("m_2 = h * slope - 2 * m_1", "m_2 = h * slope - m_1"),
        ("return -(m_1 + b) / h_1 - b / h_2, b / h_2", "return -(m_1 + b) / h_1, b / h_2"),
        ("(m_2 + h_1 * m_1) / (h_1 + h_2)", "(m_2 + h_1 * m_1) / h_2"),
        ("earlier[number * (number - 1) // 2 :]", "earlier[number * (number + 1) // 2 :]"),
        ("(x_next - denoise(x_next, sigma_next)) / sigma_next", "(x_next - denoise(x_next, sigma_next)) / sigma"),
    ],
    ("training/halving.py", "halving"): [
        ("made, here, there, there / here)", "made, here, there, here / there)"),
        ("self.weight(here) / (1 - there / here) ** 2", "self.weight(here) / (1 - there / here)"),
        ("for at in (2 * number, 2 * number + 1):", "for at in (number, number + 1):"),
        ("return 1 + snr if", "return snr if"),
        ("[order.argsort()]", "[order]"),
    ],
    ("data/photos.py", "photos"): [
        ("pixels[:, -last:] if split == \"test\" else pixels[:, :-last]", "pixels[:, -last:] if split == \"test\" else pixels"),
        ("math.exp(draw() * math.log(most))", "math.exp(draw())"),
    ],
    ("solving/descent.py", "solving"): [
        ("slope = (losses[0] - losses[1])", "slope = (losses[1] - losses[0])"),
        ("self.top + self.gaps.exp().cumsum(0)", "self.top + self.gaps.exp()"),
        ("place = max(min(max(own, low), high), place + LEAST_GAP)", "place = max(own, place + LEAST_GAP)"),
    ],
    ("solving/unrolled.py", "solving"): [
        ("gamma * (x - process.mean(x_0, here))", "gamma * (x - process.mean(x_0, there))"),
    ],
    ("solving/problem.py", "solving"): [
        (".flatten(1).mean(dim=1).sqrt()", ".flatten(1).mean(dim=1)"),
        ("calls += sum(map(self.calls_at, levels[1:]))", "calls += sum(map(self.calls_at, levels))"),
    ],
    ("pipelines/budgets.py", "solving"): [
        ("budget.error <= tolerance", "budget.default_error <= tolerance"),
        ("min(within, key=lambda budget: budget.evaluations)", "min(within, key=lambda budget: budget.error)"),
        ("if fitted.weights != digest_of(model.network)", "if not fitted.weights"),
    ],
    ("samplers/ancestral.py", "posterior latent_diffit"): [
        ("noise, lower = process.noise(x, source), float(steps.log_lower[i])",
         "noise, lower = process.noise(x, source), float(steps.log_upper[i])"),
        ("x_0.lerp(x, float(steps.ratio[i]))", "x.lerp(x_0, float(steps.ratio[i]))"),
        ("math.sqrt(1 + self.sigmas[-1] ** 2)", "self.sigmas[-1]"),
        ("lower, float(steps.log_upper[i])) / 2).exp()", "lower, float(steps.log_upper[i]))).exp()"),
    ],
    ("samplers/repaint.py", "repaint edit"): [
        ("math.sqrt(part[0] ** 2 - part[-1] ** 2)", "part[0] - part[-1]"),
        ("times = self.resamples if part[-1] > 0 else 1", "times = 1"),
    ],
    ("samplers/schedulers.py", "diffusers foreign flow"): [
        ("return 1 / (1 + sigma)", "return 1.0"),
        ("return (1 + sigma**2) ** -0.5 if vp else 1.0", "return 1.0"),
        ("tuple((s / (1 - s)) for s in", "tuple((s / (1 + s)) for s in"),
    ],
    ("networks/cells.py", "cells"): [
        ("return self.skip(x) + from_windows(h, self.window, x.shape[2])",
         "return self.skip(self.norm(x)) + from_windows(h, self.window, x.shape[2])"),
        ("h = self.skip(x) + self.time(embedding)[:, :, None, None]",
         "h = self.skip(x) * self.time(embedding)[:, :, None, None]"),
        ("x if self.skip_scale == 1.0 else x * self.skip_scale", "x"),
        ("self.skip(self.resample(x)) + h", "self.skip(self.resample(x)) - h"),
    ],
    ("networks/inception.py", "cells iunet"): [
        ("scale.to(h.dtype) + 1)", "scale.to(h.dtype))"),
        ("self.proj(mixed + self.fuse(mixed))", "self.proj(self.fuse(mixed))"),
        ("*modulation[2:])", "*modulation[:2])"),
        ("h * self.scales[1]", "h * self.scales[0]"),
        ("F.max_pool2d(pool, 3, stride=1, padding=1)", "F.avg_pool2d(pool, 3, stride=1, padding=1)"),
    ],
    ("networks/attend.py", "attention"): [
        ("bias = None if bias is None else F.pad(bias, (0, memory.shape[1]))",
         "bias = None if bias is None else F.pad(bias, (memory.shape[1], 0))"),
        ("(bias * math.sqrt(width))", "bias"),
        ("value + bias[image, head, query, key]", "value + bias[image, head, key, query]"),
    ],
    ("bench/turns.py", "bench"): [
        ("slow / quick for slow, quick in pairs", "quick / slow for slow, quick in pairs"),
        ("max(map(sum, times.values())) < seconds", "min(map(sum, times.values())) < seconds"),
        ("names = [*names[1:], names[0]]", "pass"),
    ],
    ("bench/subjects.py", "bench"): [
        ("counter.get_total_flops() // 2", "counter.get_total_flops()"),
        ("if measure(middle) < size else", "if measure(middle) > size else"),
    ],
    ("precision.py", "computing"): [
        ("products.allow_tf32 = halved", "products.allow_tf32 = True"),
    ],
    ("networks/attention.py", "attention networks"): [
        ("qkv = qkv + self.qkv_time(token)[:, None, None]", "qkv = qkv * self.qkv_time(token)[:, None, None]"),
        ("windows.flip(-2, -1)", "windows"),
        ("return x + self.mlp[2](self.mlp[1](h))", "return self.mlp[2](self.mlp[1](h))"),
        ("h = self.mlp[0](layer_norm(x))", "h = self.mlp[0](x)"),
        ("(offset * (side / count) / max(side - 1, 1))", "(offset / max(count - 1, 1))"),
        ("(x + from_windows(out, self.window, x.shape[2])) * self.skip_scale",
         "x + from_windows(out, self.window, x.shape[2]) * self.skip_scale"),
    ],
    ("analysis/attention.py", "attention_maps"): [
        ("/ math.sqrt(q.shape[-1])", "/ q.shape[-1]"),
        ("scores = scores + bias[..., tokens, :]", "scores = scores - bias[..., tokens, :]"),
        ("number = y // rows * across + x // columns", "number = x // columns * down + y // rows"),
        ("token = y % rows * columns + x % columns", "token = x % columns * rows + y % rows"),
        ("slice(number, None, windows)", "slice(number * batch, (number + 1) * batch)"),
        ("self.row * height // self.height", "self.row * height // (self.height + 1)"),
        ("weights[..., tokens:].sum(-1)", "weights[..., tokens:].mean(-1) * 0"),
        ("pair[0] / pair[1] / shape", "pair[1] / pair[0] / shape"),
        ("self.networks[expert or 0]", "self.networks[0]"),
    ],
    ("cli/analyze/split.py", "figures"): [
        ("rest = most_steps(second, total - calls)", "rest = most_steps(second, total)"),
        ("return self.first_calls / (self.first_calls + self.second_calls)", "return self.second_calls / (self.first_calls + self.second_calls)"),
        ("steps=split.second_steps", "steps=split.first_steps"),
    ],
    ("networks/layers.py", "networks attention diffit latent_diffit dsno"): [
        ("x = torch.addcmul(shift, x, scale + 1)", "x = torch.addcmul(shift, x, scale)"),
        ("(2 * math.pi * self.frequencies)", "(math.pi * self.frequencies)"),
        ("index / (half - to_the_end)", "index / half"),
        ("torch.empty(width // 2).normal_(std=16)", "torch.empty(width // 2).normal_()"),
        ("scale = (4 if direction", "scale = (1 if direction"),
        ("/ sum(taps) ** 2", "/ sum(taps)"),
        ("self.weight[class_labels.clamp(max=self.num_classes - 1)] * known",
         "self.weight[class_labels.clamp(max=self.num_classes - 1)]"),
    ],
    ("networks/diffit.py", "diffit"): [
        ("for coordinate in (x, y):", "for coordinate in (y, x):"),
        ("frequencies = 10000.0 ** (-index / (width // 4))", "frequencies = 10000.0 ** (-index / width)"),
        ("pixels.permute(0, 5, 1, 3, 2, 4)", "pixels.permute(0, 5, 2, 3, 1, 4)"),
    ],
    ("networks/song.py", "networks"): [
        ("one_hot * math.sqrt(self.num_classes)", "one_hot"),
        ("SKIP_SCALE = 0.5**0.5", "SKIP_SCALE = 0.5"),
        ("features.chunk(2, dim=1)[::-1]", "features.chunk(2, dim=1)"),
    ],
    ("networks/spectral.py", "spectral dsno"): [
        ("else [2.0, 2.0]", "else [1.0, 1.0]"),
        ("[1.0, 0.0] if highest", "[2.0, 0.0] if highest"),
        ("every(q - p)", "every(q + p)"),
        ("angle = 2 * math.pi / times", "angle = math.pi / times"),
        ("NEGATIVE_SLOPE = 0.01", "NEGATIVE_SLOPE = 0.1"),
    ],
    ("networks/dsno.py", "dsno"): [
        ("low + precise(times) * (high - low)", "low + precise(times) * high"),
        ("sinusoids(1000 * angle", "sinusoids(angle"),
    ],
    ("training/objectives.py", "training posterior training_experts relay"): [
        ("len(self.steps.ratio) / 1000 * bound", "len(self.steps.ratio) / 10 * bound"),
        ("self.weighting.weight(sigma) * error.square()", "error.square()"),
        ("sigma[:, None, None, None] * batch[\"noise\"]", "sigma[:, None, None, None] ** 2 * batch[\"noise\"]"),
        ("x_0.flip(3), x_0)", "x_0.flip(2), x_0)"),
        ("torch.where(dropped, self.num_classes, labels)", "torch.where(dropped, 0, labels)"),
        ("(rest + probability / (high - low))", "(rest + probability)"),
        ("(uniform - probability) / rest if rest", "uniform / rest if rest"),
        ("(t * (len(self.steps.ratio) - 1)).round()", "(t * len(self.steps.ratio)).floor()"),
    ],
    ("training/ema.py", "ema"): [
        ("0.5 ** (batch / halflife)", "0.5 ** (batch / halflife / 2)"),
        ("min(halflife, self.rampup_ratio * images_seen)", "max(halflife, self.rampup_ratio * images_seen)"),
        ("weights, 1 - self.beta(images_seen, batch)", "weights, self.beta(images_seen, batch)"),
    ],
    ("training/ema.py", "phema"): [
        ("(1 - batch / (images_seen + batch)) **", "(1 - batch / max(images_seen, batch)) **"),
        ("(exponent_of(self.length) + 1)", "exponent_of(self.length)"),
    ],
    ("training/phema.py", "phema"): [
        ("[1.0, 7.0, 16.0 - t, 12.0 - t]", "[1.0, 7.0, 16.0 - t, 12.0 + t]"),
        ("(g + 1) * (h + 1) / (g + h + 1)", "(g + 1) * (h + 1) / (g + h)"),
        ("(least / m) ** h", "(least / m) ** g"),
        ("x = solved / norms", "x = solved * norms"),
        ("whole - 2 * float(x @ right)", "whole - float(x @ right)"),
    ],
    ("denoisers/tiled.py", "upscale"): [
        ("estimate * window)", "estimate)"),
        ("-(-room // steps)", "room // steps"),
        ("(edge / (overlap + 1)).clamp(max=1.0)", "edge / (overlap + 1)"),
    ],
    ("data/heldout.py", "heldout"): [
        ("np.lexsort((np.arange(len(contents)), contents))", "np.arange(len(contents))"),
        ("(taken > 0) & (taken >= left)", "(taken > 0) & (taken > left)"),
        ("np.setdiff1d(np.arange(len(data)), chosen)", "np.arange(len(data))"),
    ],
    ("training/best.py", "scoring"): [
        ("1 if self.lower_is_better else -1", "1"),
    ],
    ("training/loop.py", "loop ema training"): [
        ("self.averages.update(seen, training.batch_size)",
         "self.averages.update(seen + training.batch_size, training.batch_size)"),
        ("self.processes.sum(total).item() / count", "self.processes.sum(total).item() / count / 2"),
        ("self._loss(model, self.computing.moved(micro)).sum() / size", "self._loss(model, self.computing.moved(micro)).mean()"),
        ("training.lr * min(1.0, images / max(training.lr_rampup_images, 1))", "training.lr"),
        ("rate *= 0.5 ** sum(", "rate *= 0.1 ** sum("),
        ("step_clipped(self.optimizer, training.clip_norm)", "step_clipped(self.optimizer, None)"),
    ],
    ("training/distill.py", "distill"): [
        ("1 / sigma if sigma else MOST_WEIGHT", "1 / sigma**2 if sigma else MOST_WEIGHT"),
        ("(self.weights(states.device) * distance).mean(dim=1)", "distance.mean(dim=1)"),
        ("(made - states[:, 1:]).abs()", "(made - states[:, :-1]).abs()"),
    ],
    ("training/augment.py", "augment"): [
        ("torch.exp2(-0.2 * self.stretch)", "torch.exp2(0.2 * self.stretch)"),
        ("self.angle.cos() - 1,", "self.angle.cos(),"),
        ("@ _turn(-self.axis)", "@ _turn(self.axis)"),
        ("self.right * width / 8", "self.right * width / 4"),
        ("-back @ shift", "back @ shift"),
    ],
    ("training/vae.py", "vae"): [
        ("log_variance.exp() - 1 - log_variance", "log_variance.exp() - 1 + log_variance"),
        (".sum(dim=(1, 2, 3)) / 2", ".sum(dim=(1, 2, 3))"),
    ],
    ("convert/keys.py", "networks"): [
        ("unflatten(0, packing).movedim(2, 0)", "unflatten(0, packing).movedim(1, 0)"),
        ("decoder.{depth - 1 - level}", "decoder.{level}"),
    ],
    ("pipelines/edit.py", "edit"): [
        ("return process.mean(x_0, self.level).add(noise, alpha=self.level)", "return process.mean(x_0, self.level).add(noise)"),
        ("return torch.where(mask, images.to(pixels.device), pixels)", "return pixels"),
    ],
    ("metrics/kernel.py", "metrics inception intervals"): [
        (".add_(1).pow_(3)", ".add_(1).pow_(2)"),
        ("own / (size * (size - 1))", "own / size**2"),
        ("total / (sample.numbers * (sample.numbers - 1))", "total / sample.numbers**2"),
        ("_within(fake) + _within(real) - 2 * _across(real, fake)",
         "_within(fake) + _within(real) - _across(real, fake)"),
    ],
    ("metrics/neighbours.py", "metrics inception intervals"): [
        ("return fake_found.share, real_found.share", "return real_found.share, fake_found.share"),
        ("_merge(found, slice(start, stop), away.T, at)", "pass"),
        ("reached = passed >= neighbours", "reached = passed >= neighbours - 1"),
        ("held_in_all / (neighbours * fake.numbers)", "held_in_all / fake.numbers"),
        ("covered / real.numbers", "covered / fake.numbers"),
        (".fill_diagonal_(torch.inf)", ""),
    ],
    ("metrics/frechet.py", "metrics inception intervals"): [
        ("out -= 2 * trace_of_root", "out -= trace_of_root"),
        ("torch.where(out < ROUNDING * scale, 0.0, out)", "out"),
    ],
    ("metrics/classes.py", "inception metrics"): [
        ("divergence = means[:, 0] - torch.xlogy", "divergence = means[:, 0] + torch.xlogy"),
        ("return hits / asked", "return hits / fake.numbers"),
    ],
    ("metrics/halves.py", "intervals"): [
        ("float(halves.mean()) - value", "value - float(halves.mean())"),
        ("(first - second) / 2, (first + second) / 2", "first - second, (first + second) / 2"),
        ("max(by_first - by_second, by_first / 2)", "max(by_first + 4 * by_second, by_first / 2)"),
        ("order < count // 2 + more", "order < count // 3 + more"),
    ],
    ("metrics/sample.py", "intervals"): [
        ("torch.cat((own, of_all - own))", "torch.cat((own, of_all))"),
        ("spread / (number - 1)[:, None, None]", "spread / number[:, None, None]"),
    ],
    ("metrics/memorisation.py", "evaluate"): [
        ("MEMORISED = 1 / 3", "MEMORISED = 1.1"),
        ("nearest == 0, 0.0, nearest / second", "nearest == 0, 0.0, second / nearest"),
    ],
    ("metrics/solver.py", "evaluate"): [
        ('estimate="averaged_slopes"', 'estimate="single"'),
        (".mean().sqrt()) / 3", ".mean().sqrt()) * 3"),
    ],
    ("metrics/solver.py", "comparison"): [
        ("known.read(at, at + len(made))", "known.read(0, len(made))"),
        ("steps=None, sampler=sampler", "steps=None"),
    ],
    ("metrics/real.py", "metrics"): [
        ("sum(among.gather(hits)) / len(data)", "sum(among.gather(hits)) / len(data) / 2"),
        ("by_class[0::2]], self.vectors[by_class[1::2]]", "by_class[0::2]], self.vectors[by_class[0::2]]"),
    ],
    ("pipelines/receipt.py", "receipts"): [
        ("place // self.processes // self.batch_size", "place // self.batch_size"),
        ("labels[i % len(labels)]", "labels[0]"),
    ],
    ("pipelines/replay.py", "receipts"): [
        ("if own != wanted:", "if False:"),
        ("torch.set_num_threads(self.environment.threads)", "pass"),
    ],
    ("analysis/comparison.py", "comparison"): [
        ("difference(columns, base.report.columns[name], biased=biased)",
         "difference(base.report.columns[name], columns, biased=biased)"),
        ("clock.seconds / max(clock.images, 1)", "clock.seconds * 0"),
    ],
    ("training/scoring.py", "scoring"): [
        ("spent > share * (progress.seconds + spent)", "False"),
    ],
    ("ranges.py", "ranges"): [
        ("low = value > self.low if self.open_low else value >= self.low", "low = value >= self.low"),
        ("return self.infinite and value > 0", "return self.infinite"),
    ],
    ("networks/bounds.py", "hostile_models"): [
        ("if found[what] > most[what]:", "if False:"),
        ("if tensor.is_floating_point() and not bool(tensor.isfinite().all()):", "if False:"),
    ],
    ("digests.py", "damaged_runs"): [
        ("if digest_of_file(file) != digest:", "if False:"),
    ],
    ("training/rundir.py", "damaged_runs"): [
        ("if progress.images != int(folder.name):", "if False:"),
    ],
    ("runs.py", "damaged_runs"): [
        ('or entry["images"] <= images]', 'or entry["images"] < images]'),
    ],
    ("data/splits.py", "layouts"): [
        ('split, order = ("train", TRAINING) if word in TRAINING', 'split, order = ("train", TRAINING) if word in HELD_OUT'),
    ],
    ("errors.py", "bad_input hostile_models names"): [
        ('return text if text.isprintable() else "".join(map(_visible, text))', "return text"),
    ],
}  # fmt: skip


def main() -> int:
    words = sys.argv[1:]
    mutants = [m for m in _mutants() if not words or any(w in f"{m.name}" for w in words)]
    stale = [m for m in mutants if (SOURCE / "overtone" / m.file).read_text().count(m.right) != 1]
    for mutant in stale:
        print(f"stale      {mutant.name}: that is not in the source once")
    mutants = [m for m in mutants if m not in stale]
    suites = sorted({m.tests for m in mutants})
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        copies: Queue[Path] = Queue()
        for number in range(WORKERS):
            copy = Path(folder) / str(number) / "src"
            shutil.copytree(SOURCE, copy, ignore=shutil.ignore_patterns("__pycache__"))
            copies.put(copy)

        def tried(mutant: Mutant) -> int:
            copy = copies.get()
            try:
                return _with(copy, mutant)
            finally:
                copies.put(copy)

        with ThreadPoolExecutor(WORKERS) as pool:
            healthy = pool.map(lambda tests: (tests, _failing(SOURCE, tests)), suites)
            sick = [tests for tests, code in healthy if code != 0]
            for tests in sick:
                print(f"no measure {tests}: these tests fail without a mutant")
            found = list(zip(mutants, pool.map(tried, mutants), strict=True))
    survivors = [m for m, code in found if code == 0]
    broken = [m for m, code in found if code not in (0, 1)]
    for mutant in survivors:
        print(f"survived   {mutant.name} -> {mutant.wrong.strip()}   ({mutant.tests})")
    for mutant in broken:
        print(f"no mutant  {mutant.name}: the tests could not be run with it")
    minutes = (time.monotonic() - began) / 60
    print(f"{len(found)} mutants, {len(survivors)} survivors, {minutes:.0f} min")
    return int(bool(survivors or broken or stale or sick))


def _with(copy: Path, mutant: Mutant) -> int:
    """What its tests' exit code is with a mutant in a copy of the source, which is restored."""
    file, original = copy / "overtone" / mutant.file, SOURCE / "overtone" / mutant.file
    file.write_text(original.read_text().replace(mutant.right, mutant.wrong))
    os.utime(file, (next(CLOCK),) * 2)
    try:
        code = _failing(copy, mutant.tests)
    finally:
        shutil.copy2(original, file)
    print(f"{'passed' if code == 0 else 'noticed':10} {mutant.name}", flush=True)
    return code


def _failing(source: Path, tests: str) -> int:
    """The exit code of pytest on test files with a source: 1 where a test fails."""
    files = [str(TESTS / f"test_{name}.py") for name in tests.split()]
    # The copy stands before the installed package, threads leave the other worker its core.
    env = {**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-m", "not soak", "-p", "no:cacheprovider", *files],
        capture_output=True, text=True, env=env, cwd=TESTS.parent,
    )  # fmt: skip
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
