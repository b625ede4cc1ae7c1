"""A pipeline: a trained network with its denoiser, process and sampler, from seeds to images.

Saved as a directory of data only,

    README.md                 the model card
    pipeline.json             which pipeline, its denoiser, process, sampler and class names
    network/config.json       the network's settings
    network/model.safetensors its weights
    vae/                      of a model of latents, diffusers' files of the VAE that decodes them
    first/                    of a relay, the pipeline that its first stage is

read without executing anything in it and without following any path named in it.
"""

from __future__ import annotations

import dataclasses
import operator
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import torch
from jaxtyping import Int
from PIL import Image
from torch import Tensor

from overtone import precision as precisions
from overtone import settings, storage
from overtone.data import public_name, to_pixels
from overtone.data.images import Pixels
from overtone.denoisers import (
    PRECONDITIONERS,
    DenoiserSettings,
    EDMSettings,
    ExpertDenoiser,
    GuidanceSettings,
    GuidedDenoiser,
    NetworkDenoiser,
    OperatorSettings,
    SolutionOperator,
    VESettings,
    VPSettings,
)
from overtone.denoisers.experts import intervals_of
from overtone.errors import OvertoneError, unknown
from overtone.networks import (
    NETWORKS,
    ADMUNet,
    DiffiTTransformer,
    DiffiTUNet,
    DSNOUNet,
    Experts,
    Network,
    OperatorNetwork,
    SongUNet,
    TemporalNetwork,
)
from overtone.networks.network import compile_network
from overtone.networks.vae import FOLDER as VAE_FOLDER
from overtone.networks.vae import VAE
from overtone.pipelines.card import CARD_FILE, model_card
from overtone.precision import Precision
from overtone.processes import AnyProcess, GaussianProcess, RelayProcess, SeededNoise
from overtone.samplers import (
    AncestralSampler,
    AnySampler,
    OperatorSampler,
    Sampler,
    SamplingLoop,
    Step,
)

INDEX_FILE = "pipeline.json"
NETWORK_FOLDER = "network"
FIRST_FOLDER = "first"
FILES = (CARD_FILE, INDEX_FILE, NETWORK_FOLDER, VAE_FOLDER, FIRST_FOLDER)


@dataclass(frozen=True)
class PipelineIndex:
    """The contents of pipeline.json."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    pipeline: str
    network: str
    sampler: AnySampler | OperatorSampler
    denoiser: DenoiserSettings | OperatorSettings = field(default_factory=EDMSettings)
    guidance: GuidanceSettings = field(default_factory=GuidanceSettings)
    """where nothing else is asked for"""
    image_resolution: int | None = None
    """of what a VAE decodes; none for a model of pixels"""
    process: AnyProcess = field(default_factory=GaussianProcess)
    class_names: tuple[str, ...] = ()
    data: str = ""
    """what it was trained on, as the recipe names it; of a path only the last part"""
    training: dict[str, int | float | str] = field(default_factory=dict)
    """how it was trained: images seen, batch size, and so on"""
    overtone: str = ""
    """the version that wrote it"""


AroundNetwork = EDMSettings | VPSettings | VESettings | OperatorSettings
"""Settings of what stands around a network."""


class SampleBatch(NamedTuple):
    """Some of the images asked for."""

    seeds: list[int]
    class_labels: Tensor | None
    images: Pixels


class Beginning(NamedTuple):
    """What sampling begins with, and what comes of it."""

    start: Tensor
    sigma: float
    """noise level of the start"""
    class_labels: Tensor | None
    steps: Iterator[Step]


class ImagePipeline:
    """Samples of a model with any network, of pixels or, with a `vae`, of latents.

        pipe = ImagePipeline.from_pretrained("runs/digits/checkpoints/000150016")
        images = pipe(seeds=range(16), class_labels=[7] * 16)

    An image depends on its own seed, its class and the settings, not on which others are asked
    for with it; across batch sizes it is the same up to the rounding of the matrix products.
    """

    networks: ClassVar[tuple[type[Network], ...]] = (
        ADMUNet,
        DSNOUNet,
        DiffiTTransformer,
        DiffiTUNet,
        Experts,
        SongUNet,
        TemporalNetwork,
    )

    default_denoiser: ClassVar[AroundNetwork] = EDMSettings()
    default_sampler: ClassVar[SamplingLoop] = Sampler()
    default_process: ClassVar[GaussianProcess | RelayProcess] = GaussianProcess()

    def __init__(
        self,
        network: Network,
        sampler: SamplingLoop | None = None,
        *,
        denoiser: AroundNetwork | None = None,
        process: GaussianProcess | RelayProcess | None = None,
        guidance: GuidanceSettings | None = None,
        vae: VAE | None = None,
        image_resolution: int | None = None,
        class_names: Sequence[str] = (),
        data: str = "",
        training: Mapping[str, int | float | str] | None = None,
        precision: Precision = "auto",
    ) -> None:
        if not isinstance(network, self.networks):
            raise OvertoneError(
                f"{type(self).__name__} takes {' or '.join(n.__name__ for n in self.networks)},"
                f" not {type(network).__name__}: use load_pipeline or ImagePipeline."
            )
        self.network = network.eval().to_fast_layout()
        denoiser = denoiser or self.default_denoiser
        if getattr(network.config, "learned_variance", False) and not isinstance(
            denoiser, VPSettings
        ):
            raise OvertoneError(
                f"a {type(network).__name__} with learned_variance needs a VP denoiser, not"
                f" {denoiser.kind}: pass denoiser=ADM_DIFFUSION, say."
            )
        operator = isinstance(network, OperatorNetwork)
        for what, kind, given in (
            ("denoiser", OperatorSettings, denoiser),
            ("sampler", OperatorSampler, sampler or self.default_sampler),
        ):
            if isinstance(given, kind) != operator:
                name = type(network).__name__
                raise OvertoneError(
                    f"a {name} is an operator: its {what} is an {kind.__name__}, not"
                    f" {type(given).__name__}."
                    if operator
                    else f"a {name} is no operator: its {what} can't be an {kind.__name__}."
                )
        self.denoiser = denoiser_of(self.network, denoiser)
        # A network that was never shown the null class can't be asked for it.
        if not operator:
            self.denoiser.has_null_class = (training or {}).get("label dropout", 1.0) != 0.0
        self.denoiser_settings = denoiser
        self.process: GaussianProcess | RelayProcess = process or self.default_process
        self.sampler: SamplingLoop = sampler or self.default_sampler
        self.guidance = guidance or GuidanceSettings()
        if self.guidance.scale != 1.0:
            self.guided(self.guidance)
        self.image_resolution = image_resolution
        self._vae: VAE | None = None
        if vae is not None:
            self.vae = vae
        self.class_names = tuple(class_names)
        self.data = data
        self.training = dict(training or {})
        self.precision: Precision = precision

    @property
    def device(self) -> torch.device:
        if isinstance(self.denoiser, ExpertDenoiser) and self.denoiser.residence is not None:
            return self.denoiser.residence.device
        return next(self.network.parameters()).device

    @property
    def num_classes(self) -> int:
        return self.denoiser.num_classes

    @property
    def vae(self) -> VAE | None:
        """What decodes the latents; None for a model of pixels, or before one is given."""
        return self._vae

    @vae.setter
    def vae(self, vae: VAE) -> None:
        config = self.network.config
        size = config.resolution * vae.factor
        if vae.channels != config.channels:
            raise OvertoneError(
                f"the VAE and the model do not belong together: its latents have {vae.channels}"
                f" channels, the model's {config.channels}."
            )
        if self.image_resolution not in (None, size):
            raise OvertoneError(
                f"the VAE and the model do not belong together: the model is of images of"
                f" {self.image_resolution} px, the VAE would make {config.resolution} px latents"
                f" into {size} px."
            )
        self.image_resolution, self._vae = size, vae.eval().to(self.device)

    @property
    def resolution(self) -> int:
        """Height and width of the images in pixels."""
        return self.image_resolution or self.network.config.resolution

    @property
    def channels(self) -> int:
        """Channels of the images."""
        return self.network.config.channels if self.vae is None else self.vae.image_channels

    def to(self, device: str | torch.device, *, resident: int | None = None) -> Self:
        """Move the network; images are made where it is. Their noise is the same everywhere.

        Of a model of experts at most `resident` are on the device at a time; with two or more the
        next one is fetched while one works.
        """
        if isinstance(device, torch.dtype):
            raise OvertoneError(
                "weights stay in float32; what is computed in bfloat16 is pipe.precision's to say"
                " ('auto', 'bf16', 'fp32')."
            )
        if resident is None:
            if isinstance(self.denoiser, ExpertDenoiser):
                self.denoiser.settle()
            self.network.to(device)
        elif isinstance(self.denoiser, ExpertDenoiser):
            try:
                self.denoiser.reside(device, resident)
            except ValueError as error:
                raise OvertoneError(f"{error}.") from None
        else:
            raise OvertoneError("resident is of a model of experts, and this one has one network.")
        if self.vae is not None:
            self.vae.to(device)
        return self

    def compile(self) -> Self:
        """torch.compile the network, of a transformer its block, once for all; pays on a GPU."""
        compile_network(self.network)
        return self

    def __call__(
        self,
        seeds: Sequence[int],
        class_labels: Sequence[int] | int | None = None,
        guidance_scale: float | None = None,
        guidance_interval: tuple[float, float] | None = None,
        steps: int | None = None,
        batch_size: int = 64,
        guide: ImagePipeline | None = None,
    ) -> list[Image.Image]:
        """One image a seed.

        Arguments:
            seeds: integers in [0, 2^32); seed k is drawn from `torch.Generator().manual_seed(k)`.
            class_labels: one for all or one a seed, in [0, num_classes); None gives seed k the
                class k mod num_classes.
            guidance_scale: of classifier-free guidance, or of `guide`'s; 1 for none, None for the
                scale that the pipeline was saved with (`guidance`).
            guidance_interval: (lowest, highest) sigma at which guidance acts; None for the interval
                that the pipeline was saved with.
            steps: number of noise levels, instead of the saved sampler's.
            batch_size: images at a time.
            guide: a weaker model of the same images, to guide with in the place of the model asked
                for no class: autoguidance.
        """
        batches = self.stream(
            seeds, class_labels, guidance_scale, guidance_interval, steps, batch_size, guide
        )
        return [to_pil(image) for batch in batches for image in batch.images]

    def stream(
        self,
        seeds: Sequence[int],
        class_labels: Sequence[int] | int | None = None,
        guidance_scale: float | None = None,
        guidance_interval: tuple[float, float] | None = None,
        steps: int | None = None,
        batch_size: int = 64,
        guide: ImagePipeline | None = None,
    ) -> Iterator[SampleBatch]:
        """As `__call__`, in batches of uint8 tensors: any number of images in constant memory."""
        if batch_size < 1:
            raise OvertoneError(f"a batch has at least one image, not {batch_size}.")
        seeds = whole_seeds(seeds)
        labels = self._labels(seeds, class_labels)
        for at in range(0, len(seeds), batch_size):
            part = slice(at, at + batch_size)
            own = None if labels is None else labels[part]
            # One context around all steps: autocast then converts each weight only once.
            with precisions.autocast(self.precision, self.device):
                for step in self.path(
                    seeds[part], own, guidance_scale, guidance_interval, steps, guide
                ):
                    x = step.x
                finite, pixels = torch.isfinite(x).all(), self.pixels(x).cpu()
            if not finite:
                raise OvertoneError(
                    "the model made images that are not finite: its weights are damaged, or the"
                    " guidance scale or the precision is not for it."
                )
            yield SampleBatch(seeds[part], own, pixels)

    def pixels(self, x: Tensor) -> Pixels:
        """Images in [-1, 1], or latents decoded, as uint8 where they are."""
        if self.image_resolution is None:
            return to_pixels(x)
        if self.vae is None:
            raise OvertoneError(
                "this model makes latents, and no VAE was saved with it to decode them: set"
                " pipe.vae to one, or pass --vae (a directory, or a repository of the Hub)."
            )
        with torch.no_grad():
            return to_pixels(self.vae.decode(x).float())

    def path(
        self,
        seeds: Sequence[int],
        class_labels: Sequence[int] | Tensor | int | None = None,
        guidance_scale: float | None = None,
        guidance_interval: tuple[float, float] | None = None,
        steps: int | None = None,
        guide: ImagePipeline | None = None,
    ) -> Iterator[Step]:
        """Every step from noise to image, for one batch; the last step's x is in [-1, 1], or a
        latent, which `pixels` makes images of."""
        return self.begin(
            seeds, class_labels, guidance_scale, guidance_interval, steps, guide
        ).steps

    def begin(
        self,
        seeds: Sequence[int],
        class_labels: Sequence[int] | Tensor | int | None = None,
        guidance_scale: float | None = None,
        guidance_interval: tuple[float, float] | None = None,
        steps: int | None = None,
        guide: ImagePipeline | None = None,
    ) -> Beginning:
        """Where sampling begins, and the steps that lead on, which are taken as they are asked
        for."""
        seeds = whole_seeds(seeds)
        labels = self._labels(seeds, class_labels)
        sampler = self.sampler
        if guide is not None and _shape(guide) != _shape(self):
            raise OvertoneError(
                "the guide works on {} px with {} channels, the model on {} px with {}: they have"
                " to be alike.".format(*_shape(guide), *_shape(self))
            )
        denoiser: Any = self.denoiser  # or the operator, whose own sampler knows it
        try:
            if steps is not None:
                sampler = dataclasses.replace(sampler, num_steps=steps)  # type: ignore[type-var]
            guidance = self.guidance
            if guidance_scale is not None:
                guidance = dataclasses.replace(guidance, scale=guidance_scale)
            if guidance_interval is not None:
                guidance = dataclasses.replace(guidance, interval=guidance_interval)
            if guidance.scale != 1.0:
                denoiser = self.guided(guidance, guide)
            elif guide is not None:
                raise ValueError("a guide does nothing at guidance scale 1: ask for another scale")
            source, sigma = self.noise_of(seeds), sampler.sigma_start
        except ValueError as error:
            raise OvertoneError(f"{error}.") from None
        start = self.start(seeds, labels, sigma, source)
        labels = None if labels is None else labels.to(self.device)
        path = sampler.path(denoiser, self.process, start, source, labels)
        return Beginning(start, sigma, labels, self._taken(path))

    def _taken(self, path: Iterator[Step]) -> Iterator[Step]:
        while True:  # neither context may stay on while the caller has the step
            with torch.no_grad(), precisions.autocast(self.precision, self.device):
                step = next(path, None)
            if step is None:
                return
            yield step

    def noise_of(self, seeds: Sequence[int]) -> SeededNoise:
        """Where all noise of the images with these seeds comes from."""
        return SeededNoise(seeds)

    def start(
        self,
        seeds: Sequence[int],
        class_labels: Tensor | None,
        sigma: float,
        source: SeededNoise,
    ) -> Tensor:
        """What sampling begins with at noise level `sigma`: noise."""
        config = self.network.config
        shape = (len(seeds), config.channels, config.resolution, config.resolution)
        return sigma * self.process.noise(torch.empty(shape, device=self.device), source)

    def guided(
        self, guidance: GuidanceSettings, guide: ImagePipeline | None = None
    ) -> GuidedDenoiser:
        """The denoiser under guidance. Raises `OvertoneError` for guidance that it can't have."""
        weaker = None if guide is None else guide.denoiser
        if isinstance(self.denoiser, SolutionOperator) or isinstance(weaker, SolutionOperator):
            raise OvertoneError(
                "an operator has the guidance that its trajectories were made with: it takes none,"
                " and guides nothing."
            )
        channels = self.network.config.channels
        if max(guidance.channels or (0,)) >= channels:
            raise OvertoneError(
                f"guidance acts on channels {guidance.channels}, and the model has {channels}."
            )
        try:
            return GuidedDenoiser(self.denoiser, guidance, weaker)
        except ValueError as error:
            raise OvertoneError(f"{error}.") from None

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the directory described above; it appears whole or not at all."""
        with storage.new_directory(Path(folder), known=FILES) as temporary:
            self.write_into(temporary)

    def write_into(self, folder: Path) -> None:
        """The files of `save_pretrained`, into a directory that exists."""
        from overtone import __version__

        if not isinstance(self.sampler, Sampler | AncestralSampler | OperatorSampler):
            raise OvertoneError(
                "a pipeline is saved with a sampler of Overtone's own: set pipe.sampler to a"
                " Sampler, and a diffusers scheduler again after loading."
            )
        index = PipelineIndex(
            pipeline=type(self).__name__,
            network=type(self.network).__name__,
            sampler=self.sampler,
            denoiser=self.denoiser_settings,
            process=self.process,
            guidance=self.guidance,
            image_resolution=self.image_resolution,
            class_names=self.class_names,
            data=public_name(self.data),
            training=self.training,
            overtone=__version__,
        )
        storage.write_json(folder / INDEX_FILE, settings.dump(index))
        with storage.new_file(folder / CARD_FILE) as file:
            file.write_text(self._card(index))
        if isinstance(self.denoiser, ExpertDenoiser) and self.denoiser.residence is not None:
            self.denoiser.residence.clear()
        (folder / NETWORK_FOLDER).mkdir()
        self.network.write_into(folder / NETWORK_FOLDER)
        if self.vae is not None:
            (folder / VAE_FOLDER).mkdir()
            self.vae.write_into(folder / VAE_FOLDER)

    @classmethod
    def from_pretrained(cls, name: str | Path, revision: str | None = None) -> Self:
        """The pipeline saved in a directory or in a repository of the Hub."""
        folder = storage.locate(name, revision)
        file = folder / INDEX_FILE
        if not file.exists():
            raise OvertoneError(f"{folder} is not a saved pipeline: it has no {INDEX_FILE}.")
        index = settings.load(PipelineIndex, storage.read_json(file), str(file))
        relay = isinstance(index.process, RelayProcess)
        if relay and not isinstance(cls.default_process, RelayProcess):
            raise OvertoneError(
                f"{folder} is a relay's second stage: load_pipeline or RelayPipeline opens it, not"
                f" {cls.__name__}."
            )
        if index.network not in NETWORKS:
            raise unknown("network", index.network, NETWORKS)
        network = NETWORKS[index.network].from_pretrained(folder / NETWORK_FOLDER)
        vae = folder / VAE_FOLDER
        return cls(
            network,
            index.sampler,
            denoiser=index.denoiser,
            process=index.process,
            guidance=index.guidance,
            vae=VAE.from_pretrained(vae) if vae.is_dir() else None,
            image_resolution=index.image_resolution,
            class_names=index.class_names,
            data=index.data,
            training=index.training,
        )

    def _card(self, index: PipelineIndex) -> str:
        return model_card(
            index.network,
            self.network.num_parameters,
            self.resolution,
            self.channels,
            self.class_names,
            self.num_classes,
            self.denoiser.has_null_class and self.guidance.scale == 1.0,
            {
                "trained on": index.data,
                **self.training,
                "denoiser": _brief(self.denoiser_settings),
                "guidance": _brief(self.guidance) if self.guidance.scale != 1.0 else "",
                "sampler": _brief(self.sampler),
                "written by": f"overtone {index.overtone}",
            },
            self._notes(),
        )

    def _notes(self) -> list[str]:
        """What else the card says: what a pipeline needs before it samples."""
        if self.image_resolution is None or self.vae is not None:
            return []
        return ["It makes latents: set `pipe.vae`, or pass `--vae`, to decode them."]

    def push_to_hub(self, repo_id: str, *, private: bool = False, token: str | None = None) -> str:
        """Upload to the Hub; returns the URL of the commit."""
        with tempfile.TemporaryDirectory() as temporary:
            self.save_pretrained(Path(temporary) / "pipeline")
            made = Path(temporary) / "pipeline"
            return storage.push(made, repo_id, replaced=FILES, private=private, token=token)

    def _labels(
        self, seeds: list[int], class_labels: Sequence[int] | Tensor | int | None
    ) -> Int[Tensor, " batch"] | None:
        """Labels as a tensor on the host, checked."""
        if not self.num_classes:
            if class_labels is not None:
                raise OvertoneError("class labels were given, but the model is unconditional.")
            return None
        if class_labels is None:
            class_labels = torch.tensor([s % self.num_classes for s in seeds], dtype=torch.int64)
        try:
            labels = torch.as_tensor(class_labels)
            whole = labels.numel() == 0 or not (labels.is_floating_point() or labels.is_complex())
        except (TypeError, ValueError, RuntimeError):
            whole = False
        if not whole or labels.dim() > 1 or labels.dtype == torch.bool:
            raise OvertoneError(
                f"class labels are integers in 0..{self.num_classes - 1}, one for all images or"
                " one for each."
            )
        # Of fewer bits they would be taken for a mask where they index.
        labels = labels.to("cpu", torch.int64)
        labels = labels.expand(len(seeds)) if labels.dim() == 0 else labels
        if len(labels) != len(seeds):
            raise OvertoneError(f"{len(labels)} class labels for {len(seeds)} seeds.")
        if len(seeds) and not 0 <= int(labels.min()) <= int(labels.max()) < self.num_classes:
            wrong = next(int(i) for i in labels if not 0 <= i < self.num_classes)
            raise OvertoneError(f"class label {wrong} is outside 0..{self.num_classes - 1}.")
        return labels


def whole_seeds(seeds: Any) -> list[int]:
    """Seeds as Python's integers: numpy's and torch's are taken too."""
    try:
        return [operator.index(seed) for seed in seeds]
    except TypeError:
        raise OvertoneError(
            f"seeds are several integers, like range(16) or [3, 4], and not {seeds!r}."
        ) from None


def denoiser_of(
    network: Network, settings: AroundNetwork
) -> NetworkDenoiser | ExpertDenoiser | SolutionOperator:
    """The network's denoiser, or its networks', each for its interval; an operator's network's
    operator.

    Raises `OvertoneError` for networks that do not belong together.
    """
    if isinstance(network, OperatorNetwork) and isinstance(settings, OperatorSettings):
        return SolutionOperator(network, settings)
    if not isinstance(network, Experts):
        return PRECONDITIONERS[settings.kind](network, settings)
    try:
        return ExpertDenoiser(
            [PRECONDITIONERS[settings.kind](expert, settings) for expert in network.networks],
            intervals_of(network.config.boundaries),
        )
    except ValueError as error:
        raise OvertoneError(f"{error}.") from None


def load_pipeline(name: str | Path, revision: str | None = None) -> ImagePipeline:
    """The saved pipeline, as the class that its pipeline.json names."""
    from overtone.pipelines.diffit import DiffiTPipeline, LatentDiffiTPipeline
    from overtone.pipelines.dsno import DSNOPipeline
    from overtone.pipelines.meme import MEMEPipeline
    from overtone.pipelines.relay import RelayPipeline

    latent = LatentDiffiTPipeline
    kinds = (DSNOPipeline, DiffiTPipeline, latent, MEMEPipeline, RelayPipeline, ImagePipeline)
    known: dict[str, type[ImagePipeline]] = {kind.__name__: kind for kind in kinds}
    folder = storage.locate(name, revision)
    if not (folder / INDEX_FILE).exists():
        raise OvertoneError(f"{folder} is not a saved pipeline: it has no {INDEX_FILE}.")
    kind: Any = storage.read_json(folder / INDEX_FILE, dict).get("pipeline")
    if str(kind) not in known:
        raise unknown("pipeline", str(kind), known)
    return known[kind].from_pretrained(folder)


def _shape(pipe: ImagePipeline) -> tuple[int, int]:
    return pipe.network.config.resolution, pipe.network.config.channels


def _brief(settings: Any) -> str:
    """Settings in one line, those at their defaults left out."""
    usual = type(settings)()
    changed = [
        f"{f.name} {_brief_value(value)}"
        for f in dataclasses.fields(settings)
        if f.name != "kind" and (value := getattr(settings, f.name)) != getattr(usual, f.name)
    ]
    name = getattr(settings, "kind", type(settings).__name__)
    return f"{name} ({', '.join(changed)})" if changed else name


def _brief_value(value: Any) -> str:
    if dataclasses.is_dataclass(value):
        return _brief(value)
    if isinstance(value, tuple) and len(value) > 8:
        return f"({value[0]}, {value[1]}, ..., {value[-1]}; {len(value)} in all)"
    return str(value)


def to_pil(image: Tensor) -> Image.Image:
    """A uint8 tensor (channels, height, width) as a picture, grey or RGB."""
    array = image.permute(1, 2, 0).numpy()
    return Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)


def grid(images: Pixels, columns: int, gap: int = 0) -> Image.Image:
    """Images side by side, `columns` in a row, with `gap` dark grey pixels between them."""
    rows = -(-len(images) // columns)
    _, channels, height, width = images.shape
    shape = rows * (height + gap) - gap, columns * (width + gap) - gap
    sheet = images.new_full((channels, *shape), 64)
    for i, image in enumerate(images):
        y, x = i // columns * (height + gap), i % columns * (width + gap)
        sheet[:, y : y + height, x : x + width] = image
    return to_pil(sheet)
