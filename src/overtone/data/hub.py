"""Data sets of the Hugging Face Hub, or in its formats on disk, through `datasets`.

    hf:uoft-cs/cifar10                          a data set of the Hub
    hf:ILSVRC/imagenet-1k?streaming=true        read while it downloads; only the pixels are kept
    hf:somebody/pictures?config=small&image=photo&label=kind&limit=10000
    hf:/data/cats.parquet, hf:/data/folder      parquet or arrow files, or save_to_disk's folder

The column of images is the first that has images in it, that of classes the first of class labels,
if `image` and `label` name no others; `label=none` asks for no classes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from PIL import Image

from overtone.data.images import Item, Source, open_image
from overtone.errors import OvertoneError, unknown

OPTIONS = ("config", "image", "label", "limit", "revision", "split", "streaming", "test_split")


@dataclass(frozen=True)
class HubName:
    """What stands behind `hf:`, taken apart."""

    path: str
    config: str | None = None
    image: str | None = None
    label: str | None = None
    limit: int | None = None
    revision: str | None = None
    split: str | None = None
    test_split: str | None = None
    streaming: bool = False

    @classmethod
    def parse(cls, name: str) -> HubName:
        path, _, query = name.removeprefix("hf:").partition("?")
        options: dict[str, Any] = dict(parse_qsl(query, keep_blank_values=True))
        for key in options:
            if key not in OPTIONS:
                raise unknown(f"option of {name}", key, OPTIONS)
        if "limit" in options:
            if not options["limit"].isdecimal() or int(options["limit"]) < 1:
                raise OvertoneError(f"{name}: limit is a number of images.")
            options["limit"] = int(options["limit"])
        if "streaming" in options:
            if options["streaming"] not in ("true", "false"):
                raise OvertoneError(f"{name}: streaming is true or false.")
            options["streaming"] = options["streaming"] == "true"
        if not path:
            raise OvertoneError(f"{name} names no data set: hf:OWNER/NAME or hf:/path.")
        return cls(path, **options)


def hub_source(name: str, split: str = "train", asked: HubName | None = None) -> Source | None:
    """The images of one split. None for a data set without a test split, if that is asked for.

    The test split is "test", or "validation" where there is none or where it has no labels.
    """
    from datasets import ClassLabel
    from datasets import Image as ImageFeature

    asked = asked or HubName.parse(name)
    rows, key, count = _open(asked, name, split)
    if rows is None:
        return None
    features = rows.features
    if features is None:
        raise OvertoneError(f"{name} does not say what its columns hold; it can't be streamed.")
    image = _column(name, features, asked.image, ImageFeature, "image")
    label = None
    if asked.label != "none":
        label = _column(name, features, asked.label, ClassLabel, "label")
    classes = () if label is None else tuple(features[label].names)
    if split == "test" and label is not None and asked.test_split is None:
        first = next(iter(rows.select_columns([label])), {label: 0})[label]
        if first is None or first < 0:  # a test split without labels, as ImageNet's
            labelled = replace(asked, test_split="validation")
            return hub_source(name, split, labelled) if _has_validation(asked, name) else None
    if asked.limit is not None:
        count = asked.limit if count is None else min(count, asked.limit)

    root = str(Path(asked.path).expanduser())

    def items() -> Iterator[Item]:
        raw = rows.cast_column(image, ImageFeature(decode=False))
        for number, row in enumerate(_readable(islice(raw, asked.limit), name)):
            value = None if label is None else row[label]
            if label is not None and (value is None or value < 0):
                raise OvertoneError(
                    f"{name} has no classes in its {split} split (label {value} in row {number}):"
                    " add ?label=none."
                )
            yield Item(f"{name} row {number}", _reader(row[image], root), value)

    return Source(name, f"{key} {image} {label} {asked.limit}", items, count, classes)


def _readable(rows: Iterable[Any], name: str) -> Iterator[Any]:
    """The rows, and one line for whatever ends them early: a lost network, a damaged file."""
    try:
        yield from rows
    except OvertoneError:
        raise
    except Exception as error:
        raise OvertoneError(f"{name} can't be read further: {_first_line(error)}") from error


def _reader(value: Any, root: str) -> Callable[[], Image.Image]:
    """How the image of a row is opened: from its bytes, or from a file of the data set."""

    def read() -> Image.Image:
        if value is None:
            raise ValueError("the row is empty")
        if value.get("bytes") is not None:
            return open_image(BytesIO(value["bytes"]))
        path = str(value.get("path"))
        if not _inside(path, root):
            raise ValueError(f"it points to {path}, outside the data set")
        if "://" not in path:
            return open_image(BytesIO(Path(path).read_bytes()))
        from datasets.utils.file_utils import xopen

        with xopen(path, "rb") as file:
            return open_image(BytesIO(file.read()))

    return read


def _inside(path: str, root: str) -> bool:
    """Whether a file lies in the data set's own folder, in the download cache, or on the Hub,
    perhaps in an archive there ("zip://a.png::hf://datasets/...")."""
    import datasets.config

    *archives, path = path.split("::")
    if any(not hop.startswith(("zip://", "tar://", "gzip://")) for hop in archives):
        return False
    if path.startswith("hf://"):
        return True
    if "://" in path:
        return False

    homes = [Path(root), Path(datasets.config.HF_CACHE_HOME)]
    return any(Path(path).resolve().is_relative_to(home.resolve()) for home in homes)


def _open(asked: HubName, name: str, split: str) -> tuple[Any, str, int | None]:
    """The rows of a split, a key that identifies them, and their number where it is known."""
    import datasets

    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    local = Path(asked.path).expanduser()
    try:
        if _is_saved(local):
            saved = datasets.load_from_disk(str(local))
            if not isinstance(saved, datasets.DatasetDict):
                saved = datasets.DatasetDict({asked.split or "train": saved})
            chosen = _split(asked, name, list(saved), split)
            if chosen is None:
                return None, "", None
            rows = saved[chosen]
            return rows, rows._fingerprint, len(rows)
        builder = _builder(asked, local)
        chosen = _split(asked, name, _splits(builder, asked), split)
        if chosen is None:
            return None, "", None
        key = f"{builder.cache_dir} {chosen}"
        if asked.streaming:
            return builder.as_streaming_dataset(chosen), key, None
        builder.download_and_prepare()
        rows = builder.as_dataset(chosen)
        return rows, key, len(rows)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise OvertoneError(f"{name} can't be opened: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _has_validation(asked: HubName, name: str) -> bool:
    try:
        return _open(replace(asked, test_split="validation"), name, "test")[0] is not None
    except OvertoneError:
        return False


def _is_saved(folder: Path) -> bool:
    """Whether `save_to_disk` wrote the folder."""
    return (folder / "dataset_dict.json").exists() or (folder / "state.json").exists()


def _builder(asked: HubName, local: Path) -> Any:
    import datasets

    if local.suffix in (".parquet", ".arrow") and not local.exists():
        raise OvertoneError(f"{local} does not exist.")
    if local.is_file():
        kinds = {".parquet": "parquet", ".arrow": "arrow"}
        if local.suffix not in kinds:
            raise OvertoneError(f"hf:{local} is neither .parquet nor .arrow.")
        files = {asked.split or "train": str(local)}
        return datasets.load_dataset_builder(kinds[local.suffix], data_files=files)
    path = str(local) if local.exists() else asked.path
    return datasets.load_dataset_builder(path, asked.config, revision=asked.revision)


def _splits(builder: Any, asked: HubName) -> list[str]:
    if builder.info.splits:
        return list(builder.info.splits)
    if builder.config.data_files:
        return list(builder.config.data_files)
    return [asked.split or "train"]


def _split(asked: HubName, name: str, known: Iterable[str], split: str) -> str | None:
    """The data set's own name for 'train' or 'test'; None where it has no test split."""
    known = list(map(str, known))
    if split == "test":
        if asked.test_split is not None and asked.test_split not in known:
            raise unknown(f"split of {name}", asked.test_split, known)
        return asked.test_split or next((n for n in ("test", "validation") if n in known), None)
    wanted = asked.split or "train"
    if wanted not in known:
        if asked.split is None and len(known) == 1:
            return known[0]
        raise unknown(f"split of {name}", wanted, known)
    return wanted


def _column(name: str, features: Any, asked: str | None, kind: type, option: str) -> Any:
    """The column of a kind: the one asked for, or the first."""
    fitting = [key for key, feature in features.items() if isinstance(feature, kind)]
    if asked is not None:
        if asked not in fitting:
            raise unknown(f"column of {option}s in {name}", asked, fitting)
        return asked
    if not fitting and option == "image":
        raise OvertoneError(
            f"{name} has no column of images, only {', '.join(features)}: choose another config."
        )
    return fitting[0] if fitting else None
