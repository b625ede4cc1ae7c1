"""What several recipes share."""

from __future__ import annotations

import math

from overtone.training.configs.training import Training


def ramped(
    total: int,
    batch_size: int,
    lr: float,
    rampup: int,
    rampdown: int,
    halflife: int,
    *,
    ratio: float = 0.1,
) -> Training:
    """A short run: numbers of images in all, a step, over which the learning rate rises and falls,
    and of the averages' half-life, which is at most `ratio` of the images seen."""
    return Training(
        total_images=total,
        batch_size=batch_size,
        lr=lr,
        lr_rampup_images=rampup,
        lr_rampdown_images=rampdown,
        ema_halflife_images=halflife,
        ema_rampup_ratio=ratio,
    )


def steady(steps: int, batch_size: int, lr: float) -> Training:
    """A constant learning rate from the first step on, EMA 0.9999 a step."""
    return Training(
        total_images=steps * batch_size,
        batch_size=batch_size,
        lr=lr,
        lr_rampup_images=0,
        clip_norm=None,
        ema_halflife_images=round(batch_size * math.log(2) / -math.log(0.9999)),
        ema_rampup_ratio=None,
    )
