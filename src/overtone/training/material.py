"""What a recipe trains on: its data, opened and checked, and the VAE that encodes them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, NamedTuple, cast

from overtone import precision, storage
from overtone.data.converting import MADE_GREY
from overtone.data.heldout import hold_out
from overtone.data.images import ImageData
from overtone.data.latents import LatentData, encode, fingerprint_of, is_latents, latents_index
from overtone.data.open import held_out, open_data
from overtone.data.own import lowest_of, own_data
from overtone.data.reading import PLAIN
from overtone.data.rules import Reading
from overtone.data.shards import TEST_FOLDER
from overtone.data.splits import HELD_OUT_SHARE
from overtone.errors import OvertoneError, counted, plain
from overtone.launch import processes
from overtone.networks.vae import VAE
from overtone.sizes import Resolution, scaled
from overtone.training.configs.denoising import DenoisingRecipe
from overtone.training.open import open_vae


class Material(NamedTuple):
    """What a recipe trains on."""

    data: ImageData
    held_out: ImageData | None
    vae: VAE | None


class Given(NamedTuple):
    """Data that were given in Python, as `own_data` takes them, in the place of a recipe's."""

    data: Any
    held_out: Any = None


def material_of(recipe: Any, given: Given | None = None, *, show: bool = True) -> Material:
    """The data of a recipe, opened and checked, and the VAE under which it will be encoded."""
    if not recipe.data and given is None:
        raise OvertoneError(
            "this recipe has no data of its own: pass --data FOLDER, a zip, or hf:OWNER/NAME."
        )
    name = getattr(recipe, "vae", "")  # which recipes of pixels alone have not
    vae = open_vae(name, recipe.scaling_factor) if name else None
    return Material(*data_of(recipe, vae, given, show=show and processes().is_main), vae)


def images_of(
    name: str,
    resolution: Resolution,
    channels: int,
    *,
    share: float = HELD_OUT_SHARE,
    reading: Reading = PLAIN,
    grey: bool = True,
    show: bool = True,
) -> tuple[ImageData, ImageData | None]:
    """The images of `name` and its held-out ones, and a word on what was done to read them. Where
    there is no test split, a `share` of the images is held out. Raises `OvertoneError` for colour
    pictures where one channel is asked for, unless they are to be read as `grey`."""
    if is_latents(name):
        raise OvertoneError(f"{name} holds latents: pass --vae, the VAE that they were made with.")
    data = open_data(name, resolution, channels, reading=reading)
    test = held_out(name, resolution, channels, reading=reading)
    _check_colour(data, grey)
    return _checked(name, *_with_held_out(data, test, share), show=show)


def _check_colour(data: ImageData, grey: bool) -> None:
    count = data.conversions.get(MADE_GREY, 0)
    if count and not grey:
        raise OvertoneError(
            f"{data.name}: {counted(count, 'picture')} of {len(data):,} have colours, and the"
            " network makes grey images: pass --network.channels 3, or --grey to read them as grey."
        )


def _with_held_out(
    data: ImageData, test: ImageData | None, share: float
) -> tuple[ImageData, ImageData | None]:
    return hold_out(data, share) if test is None else (data, test)


def _checked(
    name: str, data: ImageData, test: ImageData | None, *, show: bool
) -> tuple[ImageData, ImageData | None]:
    """The images and the held-out ones, which have the same classes."""
    if show:
        _tell(data, test)
    if test is not None and test.class_names != data.class_names:
        if not test.class_names:
            raise OvertoneError(
                f"{name}: the held-out split, {test.name}, has no classes, and the training split"
                f" has {data.num_classes:,}: sort its images into the same sub-folders, or name the"
                " folder of the training split as the data."
            )
        own, others = (
            [name for name in a.class_names if name not in b.class_names] or a.class_names
            for a, b in ((test, data), (data, test))
        )
        raise OvertoneError(
            f"{name}: the classes of the test split ({', '.join(own[:5])}) are not those of the"
            f" training split ({', '.join(others[:5])}): labels would not mean the same. Give both"
            " the same classes, be it empty folders."
        )
    return data, test


def _tell(data: ImageData, test: ImageData | None) -> None:
    """Say what there is, once where it is the same of both."""
    lines = list(data.told())
    held_out = [line for line in test.told() if line not in lines] if test is not None else []
    lines += [f"held out: {line}" for line in held_out]
    for line in lines:
        print(plain(line), file=sys.stderr)


def data_of(
    recipe: Any, vae: VAE | None, given: Given | None = None, *, show: bool = True
) -> tuple[ImageData, ImageData | None]:
    """What a recipe trains on and what is held out: images, not encoded yet if there is a VAE, or
    the latents in a directory. Raises `OvertoneError` if they do not fit the network or the VAE."""
    config: Any = recipe.network
    size, channels = config.resolution, config.channels
    if size == 0:  # of a diffusers model, whose settings may leave it out
        raise OvertoneError("the network's resolution is not set: a diffusers model's sample_size.")
    if vae is not None:
        if vae.channels != channels:
            raise OvertoneError(
                f"the VAE and the network do not belong together: its latents have {vae.channels}"
                f" channels, the network {channels} (--network.channels)."
            )
        size, channels = scaled(size, vae.factor), vae.image_channels
        if given is None and is_latents(recipe.data):
            return _checked(recipe.data, *_latents_in(recipe, vae, size), show=show)
    if given is not None:
        data, test = _given(given, size, channels, recipe.reading)
        _check_colour(data, recipe.grey)
        parts = _with_held_out(data, test, recipe.held_out_share)
        return _checked(data.name, *parts, show=show)
    return images_of(
        recipe.data,
        size,
        channels,
        share=recipe.held_out_share,
        reading=recipe.reading,
        grey=recipe.grey,
        show=show,
    )


def _given(
    given: Given, resolution: Resolution, channels: int, reading: Reading
) -> tuple[ImageData, ImageData | None]:
    parts = [part for part in (given.data, given.held_out) if part is not None]
    found = [lowest for lowest in map(lowest_of, parts) if lowest is not None]
    lowest = min(found, default=None)  # floats mean the same in both
    data, *test = (
        own_data(part, resolution, channels, reading=reading, lowest=lowest) for part in parts
    )
    return data, test[0] if test else None


def _latents_in(
    recipe: DenoisingRecipe, vae: VAE, size: Resolution
) -> tuple[LatentData, LatentData | None]:
    """The latents in the directory that a recipe names, made as it wants them."""
    data = LatentData(Path(recipe.data).expanduser())
    facts: list[tuple[str, Any, Any]] = [
        ("the VAE", data.index.vae, vae.digest),
        ("the scaling factor", data.index.scaling_factor, vae.scaling_factor),
        ("the shift factor", data.index.shift_factor, vae.shift_factor),
        ("the resolution of the images", data.index.image_resolution, size),
    ]
    for what, there, here in facts:
        if there != here:
            raise OvertoneError(
                f"{recipe.data} was encoded otherwise: {what} is {there} there, {here} here."
            )
    if recipe.mirror and not data.index.mirrored:
        raise OvertoneError(
            f"{recipe.data} holds no mirrored latents: encode with --mirror, or pass --no-mirror."
        )
    if data.index.mirrored and not recipe.mirror:
        raise OvertoneError(
            f"{recipe.data} holds mirrored latents too: encode without --mirror, or pass --mirror."
        )
    folder = data.folder / TEST_FOLDER
    return data, LatentData(folder) if folder.is_dir() else None


def encoded(
    recipe: DenoisingRecipe,
    vae: VAE,
    images: ImageData,
    test: ImageData | None,
    *,
    show: bool = True,
) -> tuple[LatentData, LatentData | None]:
    """The latents of images, from the cache or encoded now; those that are latents stay."""
    if isinstance(images, LatentData):  # the recipe named a directory of them
        return images, cast(LatentData | None, test)
    vae.to(precision.default_device())
    cache = storage.cache_directory() / "latents"
    index = latents_index(images, vae, mirror=recipe.mirror, images=recipe.encoded_images)
    data = encode(images, vae, cache / fingerprint_of(index), index, show=show)
    if test is None:
        return data, None
    index = latents_index(test, vae, images=recipe.reporting.held_out_images)
    return data, encode(test, vae, cache / fingerprint_of(index), index, show=show)
