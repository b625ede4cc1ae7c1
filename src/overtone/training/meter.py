"""Means of the loss and the gradient's norm between two reports."""

from __future__ import annotations

import time

import torch
from torch import Tensor

from overtone.errors import OvertoneError
from overtone.launch import ALONE, Processes


class Meter:
    """Means of the loss and the gradient's norm since the last report, kept on the device.

    Nothing waits for the device but `report` and `check`, which read the numbers.
    """

    def __init__(
        self, device: torch.device, images: int, batch: int, among: Processes = ALONE
    ) -> None:
        self.batch = batch
        self.among = among
        self.sums = torch.zeros(2, device=device)
        self.good = torch.zeros((), dtype=torch.int64, device=device)  # steps before the first bad
        self.bad = torch.zeros((), dtype=torch.bool, device=device)
        self.steps = self.steps_taken = 0
        self.clock, self.seconds, self.images = time.perf_counter(), 0.0, images

    def add(self, loss: Tensor, norm: Tensor) -> None:
        self.sums += torch.stack((loss, norm))
        self.bad |= ~torch.isfinite(loss + norm)
        self.good += ~self.bad
        self.steps += 1
        self.steps_taken += 1

    def report(self, images: int) -> dict[str, float]:
        """The means as a line of the log, and a fresh start. Raises on a loss not finite."""
        self.check(images)
        loss, norm = (self.among.sum(self.sums) / self.among.count / self.steps).tolist()
        self.restart_clock(counted=True)
        rate = (images - self.images) / self.seconds
        self.sums.zero_()
        self.steps, self.seconds, self.images = 0, 0.0, images
        return {"images": images, "loss": loss, "grad_norm": norm, "images_per_second": rate}

    def restart_clock(self, *, counted: bool = False) -> None:
        """Leave the time since the last call out of the rate (a checkpoint's), or count it in."""
        now = time.perf_counter()
        self.seconds += now - self.clock if counted else 0.0
        self.clock = now

    def check(self, images: int) -> None:
        """Raise `OvertoneError` if any loss so far was not finite, naming its step."""
        if self.bad.item():
            late = self.steps_taken - int(self.good.item()) - 1
            raise OvertoneError(
                f"the loss was not finite in the step of image {images - late * self.batch:,}:"
                " training stopped, and the last checkpoint is from before. Try a lower --lr,"
                " or --precision fp32, in another --out."
            )
