"""Random damage to files that are read from elsewhere, for as long as one likes:

    python tests/fuzz.py 3600

Valid files are made once and damaged by hypothesis: settings, directories of models, headers of
safetensors, pickles, archives, images, logs. Whatever comes of them is a value, or one
`OvertoneError` of one printable line, in bounded time and memory; anything else ends the run with
the example that led there.
"""

import contextlib
import copy
import io
import json
import pickle
import resource
import shutil
import signal
import sys
import tempfile
import time
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from PIL import Image

from helpers import TINY_DIFFIT, TINY_TRANSFORMER
from overtone import settings as stored
from overtone.convert.unpickle import read_checkpoint
from overtone.convert.weights import read_weights
from overtone.data.archives import zip_layout
from overtone.data.files import folder_layout
from overtone.data.reading import Item, open_image, read_item
from overtone.errors import OvertoneError
from overtone.networks import DiffiTTransformer, DiffiTUNet
from overtone.networks.network import load_network
from overtone.pipelines import DiffiTPipeline, load_pipeline
from overtone.pipelines.seeds import seeds_of
from overtone.runs import lines_until, read_log
from overtone.samplers import Sampler
from overtone.training.configs.recipe import Recipe
from overtone.training.recipes import find_recipe

SECONDS = 20
"""after which one example counts as hanging"""
BYTES = 512 * 2**20
"""by which the memory of the process may grow over all examples of a kind"""

IMAGE_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "TGA", "SGI", "PCX", "DDS")
IMAGE_FORMATS += ("JPEG2000", "AVIF", "ICO")

SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
    | st.sampled_from([0, -1, 2**31, 2**63, 10**30, 1e308, -0.0, "", "ADMUNet", "Sampler", "\x1b["])
)  # fmt: skip
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner)
)


def places(value, path=()):
    """The path of every entry in a JSON value."""
    yield path
    if isinstance(value, dict | list):
        entries = value.items() if isinstance(value, dict) else enumerate(value)
        for key, entry in entries:
            yield from places(entry, (*path, key))


def changed(draw, value):
    """A JSON value with a few of its entries replaced, added or left out."""
    value = copy.deepcopy(value)
    for _ in range(draw(st.integers(1, 3))):
        there = [path for path in places(value) if path]
        if not there:
            break
        *path, last = draw(st.sampled_from(there))
        inner = value
        for key in path:
            inner = inner[key]
        how = draw(st.sampled_from(["replace", "delete", "add"]))
        if how == "delete":
            del inner[last]
        elif how == "add" and isinstance(inner, dict):
            inner[draw(st.text(max_size=8))] = draw(JSON)
        else:
            inner[last] = draw(JSON)
    return value


def damaged(draw, content):
    """Bytes with some cut away, repeated, overwritten or put in between."""
    content = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(content) - 1, 0)))
        count = draw(st.sampled_from([1, 2, 4, 8, 64]))
        how = draw(st.sampled_from(["write", "cut", "delete", "insert", "repeat", "number"]))
        if how == "write":
            content[at : at + count] = draw(st.binary(min_size=count, max_size=count))
        elif how == "cut":
            del content[at:]
        elif how == "delete":
            del content[at : at + count]
        elif how == "insert":
            content[at:at] = draw(st.binary(max_size=count))
        elif how == "repeat":
            content[at:at] = content[at : at + count] * draw(st.integers(1, 50))
        else:
            number = draw(st.sampled_from([0, 1, 255, 2**31 - 1, 2**32 - 1]))
            content[at : at + 4] = number.to_bytes(4, draw(st.sampled_from(["little", "big"])))
    return bytes(content)


class Examples:
    """Valid files, in a folder of their own."""

    def __init__(self, root):
        self.root, self.work = root, root / "work"
        self.work.mkdir()
        pipe = DiffiTPipeline(DiffiTUNet(TINY_DIFFIT), Sampler(num_steps=2))
        pipe.save_pretrained(root / "model")
        DiffiTTransformer(TINY_TRANSFORMER).save_pretrained(root / "network")
        state = {"ema": {"a": torch.ones(3, 4), "b": torch.zeros(5, dtype=torch.float16)}, "n": 3}
        self.pickles = [pickle.dumps({"ema": [1, 2.5, "x", {"a": (None, True)}], "b": b"123"})]
        for new in (True, False):
            file = io.BytesIO()
            torch.save(state, file, _use_new_zipfile_serialization=new)
            self.pickles.append(file.getvalue())
        pixels = Image.fromarray(np.arange(12 * 9 * 3, dtype=np.uint8).reshape(9, 12, 3))
        self.images = []
        for kind in IMAGE_FORMATS:
            file = io.BytesIO()
            with contextlib.suppress(OSError, KeyError):
                pixels.save(file, kind)
                self.images.append(file.getvalue())
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            for name in ("top/cat/a.png", "top/dog/b.png"):
                archive.writestr(name, self.images[0])
            labels = {"labels": [["cat/a.png", 0], ["dog/b.png", 1]]}
            archive.writestr("top/dataset.json", json.dumps(labels))
        self.archive = file.getvalue()
        self.log = b"".join(b'{"images": %d, "loss": 1.5}\n' % n for n in range(0, 96, 32))

    def fresh(self, name):
        target = self.work / name
        shutil.rmtree(target, ignore_errors=True)
        return target


# What is damaged, and how it is read. Each takes `draw` and the examples.


def recipes(draw, _):
    name = draw(st.sampled_from(["diffit-digits", "meme-digits", "relay-glyphs", "dsno-digits"]))
    stored.load(Recipe, changed(draw, stored.dump(find_recipe(name))), "recipe.json")


def model_settings(draw, examples):
    folder = examples.fresh("model")
    shutil.copytree(examples.root / "model", folder)
    file = folder / draw(st.sampled_from(["pipeline.json", "network/config.json"]))
    file.write_text(json.dumps(changed(draw, json.loads(file.read_text()))))
    load_pipeline(folder)


def model_texts(draw, examples):
    folder = examples.fresh("model")
    shutil.copytree(examples.root / "model", folder)
    file = folder / draw(st.sampled_from(["pipeline.json", "network/config.json"]))
    file.write_bytes(damaged(draw, file.read_bytes()))
    load_pipeline(folder)


def headers(draw, examples):
    folder = examples.fresh("network")
    shutil.copytree(examples.root / "network", folder)
    file = folder / "model.safetensors"
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    if draw(st.booleans()):
        header = json.loads(content[8 : 8 + length])
        text = json.dumps(changed(draw, header)).encode()
        file.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])
    else:
        file.write_bytes(damaged(draw, content[: 8 + length]) + content[8 + length :])
    load_network(folder)


def pickles(draw, examples):
    file = examples.work / "checkpoint.pt"
    file.write_bytes(damaged(draw, draw(st.sampled_from(examples.pickles))))
    read = draw(st.sampled_from([read_checkpoint, read_weights]))
    read(file)


def programs(draw, examples):
    """Pickles of random instructions."""
    file = examples.work / "program.pkl"
    parts = [
        b"(",
        b"l",
        b"d",
        b"t",
        b"a",
        b"s",
        b"u",
        b"e",
        b"0",
        b"1",
        b"2",
        b"N",
        b"]",
        b"}",
        b")",
    ]
    parts += [
        b"\x85",
        b"\x86",
        b"\x87",
        b"\x88",
        b"\x8f",
        b"\x90",
        b"\x91",
        b"\x94",
        b"q\x00",
        b"h\x00",
    ]
    parts += [b"R", b"b", b"\x81", b"Q", b"K\x05", b"I7\n", b"V\xc3\xa9\n", b"J\xff\xff\xff\x7f"]
    parts += [
        b"ccollections\nOrderedDict\n",
        b"ctorch._utils\n_rebuild_tensor_v2\n",
        b"cos\nsystem\n",
    ]
    chosen = draw(st.lists(st.sampled_from(parts), max_size=60))
    file.write_bytes(b"\x80\x04" + b"".join(chosen) + b".")
    read_checkpoint(file)


def images(draw, examples):
    content = damaged(draw, draw(st.sampled_from(examples.images)))
    channels = draw(st.sampled_from([1, 3]))
    read_item(Item("a.png", lambda: open_image(io.BytesIO(content))), 8, channels)


def archives(draw, examples):
    file = examples.work / "data.zip"
    file.write_bytes(damaged(draw, examples.archive))
    source = zip_layout(file).source("train")
    for item in source.items():
        read_item(item, 8, 3)


def labels(draw, examples):
    folder = examples.fresh("folder")
    for name in ("cat/a.png", "dog/b.png"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_bytes(examples.images[0])
    content = {"labels": [["cat/a.png", 0], ["dog/b.png", 1]]}
    (folder / "dataset.json").write_text(json.dumps(changed(draw, content)))
    folder_layout(folder).source("train")


def logs(draw, examples):
    run = examples.fresh("run")
    run.mkdir()
    (run / "log.jsonl").write_bytes(damaged(draw, examples.log))
    read_log(run)
    lines_until(run, 64)


def seeds(draw, _):
    seeds_of(draw(st.text(alphabet="0123456789-, +ex٣", max_size=30)))


TARGETS = (
    recipes, model_settings, model_texts, headers, pickles, programs, images, archives, labels,
    logs, seeds,
)  # fmt: skip


@contextlib.contextmanager
def bounded(counts):
    """One example: a value, or an error as it should be."""

    def hangs(*_):
        raise TimeoutError(f"an example takes more than {SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, hangs)
    signal.alarm(SECONDS)
    try:
        yield
        counts["values"] += 1
    except OvertoneError as error:
        counts["errors"] += 1
        text = str(error)
        if not text.isprintable() or len(text) > 1100:
            raise AssertionError(f"no line: {text!r}") from error
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def fuzz(target, examples, number, start, counts):
    """So many examples of a target, from a start that says which."""

    @seed(start)
    @settings(
        max_examples=number,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
    )
    @given(st.data())
    def one(data):
        with bounded(counts):
            target(data.draw, examples)

    one()


def memory():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main():
    limit, start = float(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    began, first = time.monotonic(), start
    every = {target.__name__: Counter() for target in TARGETS}
    with tempfile.TemporaryDirectory() as folder:
        examples = Examples(Path(folder))
        base = memory()
        while time.monotonic() - began < limit:
            for target in TARGETS:
                fuzz(target, examples, 100, start, every[target.__name__])
            if (start - first) % 10 == 0:
                print(
                    f"{time.monotonic() - began:,.0f} s, start {start}", file=sys.stderr, flush=True
                )
            start += 1
        grown = memory() - base
    for name, counts in every.items():
        print(f"{name}: {counts['values']:,} values, {counts['errors']:,} errors of one line")
    total = sum(map(Counter.total, every.values()))
    print(f"{total:,} examples in {time.monotonic() - began:,.0f} s, {grown / 2**20:.0f} MB grown")
    assert grown < BYTES


if __name__ == "__main__":
    main()
