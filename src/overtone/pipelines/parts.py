"""The parts of a pipeline: what they are, and that they belong together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch

from overtone import storage
from overtone.denoisers.build import denoiser_of
from overtone.denoisers.denoiser import Model
from overtone.denoisers.guidance import GuidanceSettings
from overtone.denoisers.guided import GuidedDenoiser
from overtone.denoisers.preconditioning import EDMPreconditioning, Preconditioning
from overtone.errors import OvertoneError
from overtone.networks.network import Network, compile_network, why_no_compiler
from overtone.networks.vae import VAE
from overtone.pipelines.budgets import Budget
from overtone.pipelines.card import check_license
from overtone.pipelines.starts import NoiseStart, RelayStart, Start
from overtone.precision import Precision
from overtone.processes.gaussian import GaussianProcess, Process
from overtone.renamed import check_arguments
from overtone.samplers.loop import SamplingLoop
from overtone.samplers.sampler import Sampler
from overtone.sizes import scaled, shown


class Parts:
    """The parts of a pipeline, given once and checked together.

    The arguments are those of `Pipeline`.

    Raises `OvertoneError` for parts that do not belong together.
    """

    def __init__(
        self,
        network: Network,
        sampler: SamplingLoop | None = None,
        *,
        preconditioning: Preconditioning | None = None,
        process: Process | None = None,
        guidance: GuidanceSettings | None = None,
        start: Start | None = None,
        vae: VAE | None = None,
        image_resolution: int | tuple[int, int] | None = None,
        class_names: Sequence[str] = (),
        budgets: Sequence[Budget] = (),
        data: str = "",
        training: Mapping[str, int | float | str] | None = None,
        license: str = "",
        precision: Precision = "auto",
        **former: Any,
    ) -> None:
        check_arguments(former, "Pipeline")
        self._network = network.eval().to_fast_layout()
        self._preconditioning = preconditioning or EDMPreconditioning()
        try:
            self.denoiser: Model = denoiser_of(self.network, self.preconditioning)
        except ValueError as error:
            raise OvertoneError(f"{error}.") from None
        # A network that was never shown the null class can't be asked for it.
        if (training or {}).get("label dropout", 1.0) == 0.0:
            self.denoiser.has_null_class = False
        self._process = process or GaussianProcess()
        self.image_resolution = image_resolution
        self._vae: VAE | None = None
        if vae is not None:
            self.vae = vae
        self.class_names = tuple(class_names)
        if len(self.class_names) not in (0, self.num_classes):
            raise OvertoneError(
                f"there are {len(self.class_names):,} names of classes, and the model has"
                f" {self.num_classes:,} classes: give one name for each class."
            )
        self.budgets = tuple(budgets)
        self.data = data
        self.training = dict(training or {})
        self.license = check_license(license)
        self.precision: Precision = precision
        self._check_process()
        self.sampler = sampler or Sampler()
        self.guidance = guidance or GuidanceSettings()
        self.start = start or (NoiseStart() if self.process.upscale == 1 else RelayStart())

    def _check_process(self) -> None:
        if self.process.upscale != 1 and self.image_resolution is not None:
            raise OvertoneError(
                f"a {self.process.kind} blurs pixels, and this model makes latents of a VAE."
            )
        try:
            self.process.check_size(self.resolution)
        except ValueError as error:
            raise OvertoneError(f"{error}.") from None

    @property
    def network(self) -> Network:
        """The network, which is given once."""
        return self._network

    @property
    def preconditioning(self) -> Preconditioning:
        """What makes the network a denoiser; given once."""
        return self._preconditioning

    @property
    def process(self) -> Process:
        """What the model inverts; given once."""
        return self._process

    @property
    def sampler(self) -> SamplingLoop:
        """How steps lead to the image. Raises `OvertoneError` for one that does not fit."""
        return self._sampler

    @sampler.setter
    def sampler(self, sampler: SamplingLoop) -> None:
        self.check_sampler(sampler)
        self._sampler = sampler

    @property
    def guidance(self) -> GuidanceSettings:
        """Guidance, where a request says nothing of it. Raises `OvertoneError` for what the model
        can't have."""
        return self._guidance

    @guidance.setter
    def guidance(self, guidance: GuidanceSettings) -> None:
        self._check_channels(guidance)
        if guidance.acts:
            self.guided(guidance)
        self._guidance = guidance

    def check_sampler(self, sampler: SamplingLoop) -> None:
        """Raises `OvertoneError` for a sampler that does not fit the other parts."""
        config = self.network.config
        if config.makes_trajectories != sampler.is_operator:
            raise OvertoneError(
                f"a {config.kind} is an operator: its sampler is an OperatorSampler, not a"
                f" {type(sampler).__name__}."
                if config.makes_trajectories
                else f"a {config.kind} is not an operator: its sampler can't be an"
                f" {type(sampler).__name__}."
            )
        highest = self.process.highest_sigma
        try:
            sampler.check_process(self.process)
            sigma = sampler.sigma_start
        except ValueError as error:
            raise OvertoneError(f"{error}.") from None
        if sigma > highest:
            raise OvertoneError(
                f"the sampler begins at sigma {sigma:.3g}, and the process ends at"
                f" {highest:.3g}: choose a sigma_max, or a truncation_sigma, below that."
            )

    @property
    def device(self) -> torch.device:
        return self.denoiser.home or next(self.network.parameters()).device

    @property
    def num_classes(self) -> int:
        return self.denoiser.num_classes

    @property
    def start(self) -> Start:
        """What sampling begins with. Raises `OvertoneError` for one that does not fit."""
        return self._start

    @start.setter
    def start(self, start: Start) -> None:
        self._start = start.joined(self)
        own = self._start.pipeline
        if own is not None and own.device != self.device:  # experts that reside there stay
            own.to(self.device)

    @property
    def first(self) -> Any:
        """The first stage of a relay; None before one is given. May be set to whatever may be the
        `first_stage` of a `RelayStart`. Raises `OvertoneError` if they do not fit together."""
        start: Any = self._start
        return start.pipeline or getattr(start, "first_stage", None)

    @first.setter
    def first(self, first: Any) -> None:
        self.start = RelayStart(first)

    @property
    def vae(self) -> VAE | None:
        """What decodes the latents; None for a model of pixels, or before one is given."""
        return self._vae

    @vae.setter
    def vae(self, vae: VAE) -> None:
        if self.process.upscale != 1:
            raise OvertoneError(f"a {self.process.kind} blurs pixels, and a VAE is of latents.")
        config = self.network.config
        size = scaled(config.resolution, vae.factor)
        if vae.channels != config.channels:
            raise OvertoneError(
                f"the VAE and the model do not belong together: its latents have {vae.channels}"
                f" channels, the model's {config.channels}."
            )
        if self.image_resolution not in (None, size):
            raise OvertoneError(
                f"the VAE and the model do not belong together: the model is of images of"
                f" {shown(self.image_resolution)} px, the VAE would make"
                f" {shown(config.resolution)} px latents into {shown(size)} px."
            )
        self.image_resolution, self._vae = size, vae.eval().to(self.device)

    @property
    def resolution(self) -> int | tuple[int, int]:
        """The height and width of the images in pixels, one number where they are alike."""
        return self.image_resolution or self.network.config.resolution

    @property
    def channels(self) -> int:
        """Channels of the images."""
        return self.network.config.channels if self.vae is None else self.vae.image_channels

    def to(self, device: str | torch.device, *, resident: int | None = None) -> Self:
        """Move the networks; images are made where they are. Their noise is the same everywhere.

        Of a model of experts at most `resident` are on the device at a time; with two or more the
        next one is fetched while one works.
        """
        if isinstance(device, torch.dtype):
            raise OvertoneError(
                "weights stay in float32; what is computed in bfloat16 is pipe.precision's to say"
                " ('auto', 'bf16', 'fp32')."
            )
        if resident is None:
            self.denoiser.settle()
            self.network.to(device)
        else:
            try:
                self.denoiser.reside(device, resident)
            except ValueError as error:
                raise OvertoneError(f"{error}.") from None
        if self.vae is not None:
            self.vae.to(device)
        if self.start.pipeline is not None and self.start.pipeline.device != self.device:
            self.start.pipeline.to(device)
        return self

    def is_exact_in(self, dtype: Any) -> bool:
        """Whether weights saved in a type, as in `save_pretrained`, are the very same weights, a
        first stage's included."""
        first = self.start.pipeline
        return self.network.is_exact_in(dtype) and (first is None or first.is_exact_in(dtype))

    @torch.no_grad()
    def round_to(self, dtype: Any) -> Self:
        """Round all weights, a first stage's and a VAE's included, as saving in a type does."""
        for module in (self.network, self.vae):
            for name, value in (module.state_dict() if module is not None else {}).items():
                value.copy_(storage.converted(name, value, dtype))
        if self.start.pipeline is not None:
            self.start.pipeline.round_to(dtype)
        return self

    def compile(self) -> Self:
        """torch.compile the networks; of a transformer, its block once for all blocks.

        It pays for many images. Raises `OvertoneError` where there is no compiler.
        """
        if reason := why_no_compiler(self.device.type):
            raise OvertoneError(f"--compile: torch.compile does not work here ({reason:.300}).")
        compile_network(self.network)
        if self.start.pipeline is not None:
            self.start.pipeline.compile()
        return self

    def guided(self, guidance: GuidanceSettings, guide: Parts | None = None) -> GuidedDenoiser:
        """The denoiser under guidance. Raises `OvertoneError` for guidance that it can't have."""
        own: Any = self.denoiser
        weaker: Any = None if guide is None else guide.denoiser
        if own.is_operator or (weaker is not None and weaker.is_operator):
            raise OvertoneError(
                "an operator has the guidance that its trajectories were made with: it takes none,"
                " and guides nothing."
            )
        self._check_channels(guidance)
        try:
            return GuidedDenoiser(own, guidance, weaker)
        except ValueError as error:
            raise OvertoneError(f"{error}.") from None

    def _check_channels(self, guidance: GuidanceSettings) -> None:
        channels = self.network.config.channels
        if max(guidance.channels or (0,)) >= channels:
            raise OvertoneError(
                f"guidance acts on channels {guidance.channels}, and the model has {channels}."
            )
