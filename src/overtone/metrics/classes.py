"""Scores of the classes that a classifier sees in images: Inception Score and class accuracy."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from overtone.metrics.parts import HITS, LOGITS
from overtone.metrics.sample import Sample
from overtone.metrics.vectors import blocks

SPLIT = 5000
"""images over which the Inception Score takes its mean of classes, as ADM's evaluator does"""


def inception_scores(fake: Sample, split: int = SPLIT) -> Float[Tensor, " columns"]:
    """exp of the mean divergence KL(p(y | x) || p(y)), averaged over splits of the images in their
    order (Salimans et al. 2016, arXiv 1606.03498), in each column.

    p(y | x) is the softmax of the logits, p(y) its mean over a split.
    """
    logits, scores = fake.parts[LOGITS], []
    for first, last in blocks(len(fake), split):
        sums = torch.zeros(fake.columns, logits.dims + 2, dtype=torch.float64)
        for start, stop in blocks(last - first):
            start, stop = first + start, first + stop
            log_p = logits.read(start, stop).double().log_softmax(dim=1)
            negentropy = (log_p.exp() * log_p).sum(dim=1, keepdim=True)
            summed = torch.cat((torch.ones_like(negentropy), negentropy, log_p.exp()), dim=1)
            sums += fake.halves.block(start, stop).T @ summed
        means = sums[:, 1:] / sums[:, :1]
        divergence = means[:, 0] - torch.xlogy(means[:, 1:], means[:, 1:]).sum(dim=1)
        scores.append(divergence.exp())
    return torch.stack(scores).mean(dim=0)


def class_accuracies(fake: Sample) -> Float[Tensor, " columns"]:
    """The share of images that are taken for the class that was asked for, in each column; nan
    where no class was asked for."""
    hits, asked = fake.totals(
        HITS, lambda hit: torch.cat((hit.nan_to_num(0.0), (~hit.isnan()).double()), dim=1)
    ).unbind(dim=1)
    return hits / asked
