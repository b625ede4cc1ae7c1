"""A diffusers pipeline of a U-Net or DiT as one of ours: its network under a row of our table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from overtone import storage
from overtone.denoisers.foreign import noise_levels_of, preconditioning_of
from overtone.denoisers.preconditioning import Preconditioning
from overtone.errors import OvertoneError
from overtone.networks.configs.foreign import (
    DiffusersDiTConfig,
    DiffusersUNetConfig,
    check_whole_numbers,
)
from overtone.networks.foreign import DiffusersNetwork, load_model
from overtone.networks.vae import VAE, usual_scale
from overtone.pipelines.index import DIFFUSERS_FILE
from overtone.pipelines.pipeline import Pipeline
from overtone.registry import said
from overtone.samplers.sampler import Sampler

SCHEDULER_FILE = "scheduler_config.json"
MOST_STEPS = 100_000
"""a scheduler of more is refused: it would compute as many noise levels"""
NETWORKS = ("unet", "transformer")
VAES = ("vae", "vqvae")
CLASSES = {kind.model_class for kind in (DiffusersUNetConfig, DiffusersDiTConfig)}
"""These classes of diffusers are networks here."""


def diffusers_pipeline(folder: Path) -> Pipeline:
    """The pipeline in a directory; its sampler is Heun's, from the highest noise level that its
    network was trained on.

    Each part is read by itself, by the class of diffusers that model_index.json names; no other
    code is imported. Raises `OvertoneError` for code in the directory, for networks of another
    kind, and for pipelines that need more than these parts, a text encoder say.
    """
    index = storage.read_json(folder / DIFFUSERS_FILE, dict)
    code = sorted(file.name for file in folder.rglob("*.py"))
    if code:
        raise OvertoneError(
            f"{folder} holds code ({', '.join(code[:3])}), which diffusers might execute: move it"
            " away, if the pipeline needs none."
        )
    parts = _parts(folder, index)
    row, sampler = _scheduled(folder, parts["scheduler"])
    name = next(name for name in NETWORKS if name in parts)
    network = _loaded(folder, name, parts[name])
    has_vae = any(vae in parts for vae in VAES)
    _check_network(folder, network, has_vae=has_vae)
    own = DiffusersNetwork.of(network.float())
    try:
        own.check_size()
    except OvertoneError as error:
        raise OvertoneError(f"{folder}: {error}") from None
    return Pipeline(
        own,
        sampler,
        preconditioning=row,
        # Where a config.json leaves the scaling factor out, diffusers takes that of the class.
        vae=VAE.from_pretrained(folder, usual_scale()) if has_vae else None,
        class_names=_class_names(network, index),
    )


def sampler_of(folder: Path) -> Sampler:
    """The sampler that a directory's pipeline is opened with, from its scheduler's settings."""
    index = storage.read_json(folder / DIFFUSERS_FILE, dict)
    return _scheduled(folder, _parts(folder, index)["scheduler"])[1]


def _scheduled(folder: Path, kind: str) -> tuple[Preconditioning, Sampler]:
    """What a directory's scheduler says: the row that its network was trained under, and Heun's
    method over the noise levels."""
    scheduler = _loaded(folder, "scheduler", kind)
    try:
        row, (low, high) = preconditioning_of(scheduler), noise_levels_of(scheduler)
        return row, Sampler(18, sigma_min=low, sigma_max=high, estimate="heun")
    except OvertoneError as error:
        raise OvertoneError(f"{folder}: {error}") from None
    except (ArithmeticError, IndexError, TypeError, ValueError) as error:
        raise OvertoneError(
            f"{folder / 'scheduler'}: the settings of its {kind} make no noise levels"
            f" ({said(error)})."
        ) from None


def _parts(folder: Path, index: dict[str, Any]) -> dict[str, str]:
    """The class of each part of a pipeline, by the part's name."""
    whose = str(index.get("_class_name", "pipeline"))
    parts: dict[str, str] = {}
    for part, entry in index.items():
        if part.startswith("_") or not isinstance(entry, list) or entry == [None, None]:
            continue
        library, kind = entry if len(entry) == 2 else (None, None)
        if part.startswith(("text_encoder", "tokenizer")):
            raise OvertoneError(
                f"{folder} is a {whose}, which needs a text encoder ({kind}): in Python,"
                " DiffusersDenoiser(model, scheduler, encoder_hidden_states=...) takes its output."
            )
        if part not in (*NETWORKS, *VAES, "scheduler") or library != "diffusers":
            raise OvertoneError(
                f"{folder} is a {whose} with a part that is not known here: {part} ({library},"
                f" {kind})."
            )
        parts[part] = str(kind)
    if missing := [part for part in parts if not (folder / part).is_dir()]:
        raise OvertoneError(f"{folder} lacks its folder {missing[0]}.")
    networks = [parts[name] for name in NETWORKS if name in parts]
    if len(networks) != 1 or networks[0] not in CLASSES or "scheduler" not in parts:
        found = ", ".join(f"{part}: {kind}" for part, kind in parts.items()) or "nothing"
        raise OvertoneError(
            f"{folder} is a {whose} of {found}: a network of these and a scheduler are needed:"
            f" {', '.join(sorted(CLASSES))}."
        )
    return parts


def _loaded(folder: Path, part: str, kind: str) -> Any:
    """A part of a pipeline, whose weights have to be safetensors."""
    import diffusers

    there = folder / part
    known = getattr(diffusers, kind, None)
    if known is None or (part == "scheduler" and not kind.endswith("Scheduler")):
        raise OvertoneError(f"{there}: diffusers {diffusers.__version__} has no {part} '{kind}'.")
    if part != "scheduler":
        return load_model(known, there)
    settings = storage.read_json(there / SCHEDULER_FILE, dict)
    try:
        check_whole_numbers(settings, MOST_STEPS)
        return known.from_pretrained(there)
    except Exception as error:  # a broken file makes diffusers raise almost anything
        raise OvertoneError(f"{there}: diffusers can't load it ({said(error)}).") from None


def _check_network(folder: Path, network: Any, *, has_vae: bool) -> None:
    config = network.config
    sizes = config.sample_size
    sizes = tuple(sizes) if isinstance(sizes, list | tuple) else (sizes, sizes)
    whole = all(isinstance(size, int) and not isinstance(size, bool) for size in sizes)
    if not whole or len(sizes) != 2 or sizes[0] != sizes[1] or sizes[0] < 1:
        raise OvertoneError(
            f"{folder}: images are square here, and its sample_size is {config.sample_size!r}."
        )
    if getattr(config, "class_embed_type", None) is not None:
        raise OvertoneError(
            f"{folder}: its network embeds classes by '{config.class_embed_type}', which is not"
            " known here: only numbered classes are."
        )
    if not has_vae and config.in_channels not in (1, 3):
        raise OvertoneError(
            f"{folder}: its network makes {config.in_channels} channels, which are no grey or RGB"
            " images, and no VAE is there that decodes them: put one into its folder vae, and its"
            " name into model_index.json."
        )
    if config.out_channels not in (None, config.in_channels, 2 * config.in_channels):
        raise OvertoneError(
            f"{folder}: its network makes {config.out_channels} channels of {config.in_channels}."
        )


def _class_names(network: Any, index: dict[str, Any]) -> tuple[str, ...]:
    """The names of a DiT's classes, where its pipeline has them: the first of each class's
    synonyms, if no other class has the same, else all of them."""
    names, count = index.get("id2label"), getattr(network.config, "num_embeds_ada_norm", None)
    if not isinstance(names, dict) or {str(n) for n in range(count or 0)} != set(names):
        return ()
    every = [str(names[str(number)]) for number in range(count or 0)]
    short = [name.partition(",")[0].strip() for name in every]
    return tuple(
        one if short.count(one) == 1 else whole for one, whole in zip(short, every, strict=True)
    )
