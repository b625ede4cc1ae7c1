"""The four systems as factories of pipelines: what each changes, and what it leaves at its default.

    DiffiT      the network           DiffiTPipeline, LatentDiffiTPipeline
    RDM         process and start     RelayPipeline
    MEME        the denoiser          MEMEPipeline
    DSNO        the sampler           DSNOPipeline

Each returns a `Pipeline`, so that whatever one system can do, combinations can.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from overtone.denoisers.preconditioning import (
    ADM_DIFFUSION,
    EDMPreconditioning,
    OperatorPreconditioning,
    Preconditioning,
)
from overtone.errors import OvertoneError
from overtone.networks.network import Network
from overtone.pipelines.merge import merged
from overtone.pipelines.pipeline import Pipeline
from overtone.processes.gaussian import GaussianProcess, Process
from overtone.processes.relay import RelayProcess
from overtone.samplers.ancestral import AncestralSampler
from overtone.samplers.loop import SamplingLoop
from overtone.samplers.operator import OperatorSampler
from overtone.samplers.sampler import SECOND_STAGE, Sampler


@dataclass(frozen=True)
class System:
    """A factory of pipelines: called with a network, and with whatever of `Pipeline` differs from
    the system's defaults, it returns a `Pipeline`."""

    name: str
    networks: tuple[str, ...] = ()
    """The kinds of network that the system consists of. None stands for any."""
    preconditioning: Preconditioning = field(default_factory=EDMPreconditioning)
    sampler: SamplingLoop = field(default_factory=Sampler)
    process: Process = field(default_factory=GaussianProcess)

    def __call__(
        self, network: Network, sampler: SamplingLoop | None = None, **parts: Any
    ) -> Pipeline:
        """The pipeline of a network. Raises `OvertoneError` for a network of another system."""
        row = self.preconditioning.for_network(network.config)
        defaults = {"preconditioning": row, "process": self.process}
        given = {name: part for name, part in parts.items() if part is not None}
        return self._checked(Pipeline(network, sampler or self.sampler, **defaults | given))

    def from_pretrained(self, name: str | Path, revision: str | None = None) -> Pipeline:
        """The pipeline saved in a directory or in a repository of the Hub. Raises `OvertoneError`
        for one of another system; `load_pipeline` opens any."""
        return self._checked(Pipeline.from_pretrained(name, revision))

    def merged(self, pipelines: Sequence[Pipeline], boundaries: Sequence[float]) -> Pipeline:
        """One pipeline of several (`overtone.pipelines.merge`)."""
        return merged(pipelines, boundaries)

    def __instancecheck__(self, pipe: Any) -> bool:
        """`isinstance(pipe, RelayPipeline)`: whether a pipeline is one of this system."""
        if not isinstance(pipe, Pipeline):
            return False
        relay = self.process.upscale != 1
        fits = not self.networks or pipe.network.config.kind in self.networks
        return fits and relay == (pipe.process.upscale != 1)

    def _checked(self, pipe: Pipeline) -> Pipeline:
        kind = pipe.network.config.kind
        if self.networks and kind not in self.networks:
            raise OvertoneError(
                f"{self.name} takes {' or '.join(self.networks)}, not {kind}: use load_pipeline, or"
                " Pipeline."
            )
        if pipe.process.upscale == 1 and self.process.upscale != 1:
            raise OvertoneError(f"a {self.name} inverts a RelayProcess, not a {pipe.process.kind}.")
        if pipe.process.upscale != 1 and self.process.upscale == 1:
            raise OvertoneError(
                f"this is a relay's second stage: load_pipeline or RelayPipeline opens it, not"
                f" {self.name}."
            )
        return pipe


DiffiTPipeline = System("DiffiTPipeline", ("DiffiTUNet",))
"""Images from a `DiffiTUNet` in EDM's preconditioning, by EDM's sampler (Hatamizadeh et al. 2023,
arXiv 2312.02139)."""

LatentDiffiTPipeline = System(
    "LatentDiffiTPipeline",
    ("DiffiTTransformer",),
    preconditioning=ADM_DIFFUSION,
    sampler=AncestralSampler(),
)
"""Images from a `DiffiTTransformer` on the latents of a VAE, in ADM's diffusion, by DDPM's sampler.
Its guidance may be the published one: the first three channels, a power-cosine of the time."""

RelayPipeline = System(
    "RelayPipeline",
    process=RelayProcess(),
    sampler=SECOND_STAGE,
)
"""Images of a first stage, continued at `process.patch` times their resolution (Teng et al. 2024,
arXiv 2309.03350). The network is the second stage's; `pipe.first` is the first."""

MEMEPipeline = System("MEMEPipeline", ("Experts",))
"""Images from several networks, each asked at its interval of noise levels (Lee et al. 2023, arXiv
2306.04990). Wherever else a pipeline takes a network it takes `Experts`."""

DSNOPipeline = System(
    "DSNOPipeline",
    ("DSNOUNet", "TemporalNetwork"),
    preconditioning=OperatorPreconditioning(),
    sampler=OperatorSampler(),
)
"""Images, and the way to them, from one evaluation of a network that returns whole trajectories
(Zheng et al. 2022, arXiv 2211.13449)."""
