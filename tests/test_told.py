"""What is told of data before anything is trained on it: classes, counts, values, what is left."""

import dataclasses
import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from helpers import TINY_TRANSFORMER, tiny_vae
from overtone.cli.app import main
from overtone.data import open_data
from overtone.data.inspect import inspect_data
from overtone.data.rules import Reading
from overtone.training.material import images_of
from test_latents import LATENT
from trees import parsed, png, write_folder, write_zip

RUN = "train diffit-digits --network.widths 16 16 --network.head-channels 8 --dry-run"
RUN += " --batch-size 4 --total-images 64"


@pytest.mark.parametrize("write", [write_folder, write_zip])
def test_classes_and_counts_are_shown_before_training_and_by_inspection(tmp_path, capsys, write):
    files = parsed("ant/0.png ant/1.png bee/ cat/2.png cat/a.txt")
    root = str(write(tmp_path / "it.zip", files))
    main([*RUN.split(), "--data", root, "--network.num-classes", "3"])
    lines = capsys.readouterr().err.splitlines()
    assert lines[:3] == [
        f"{root}: 1 file is not an image and is passed over (1 .txt)",
        f"{root}: 1 of 3 classes have no images (bee)",
        f"{root}: 3 images, 3 classes: ant (2), bee (0), cat (1)",
    ]
    main(["data", "inspect", root, "--out", str(tmp_path / "sheet.png")])
    out = capsys.readouterr().out
    words = [line.split() for line in out.splitlines()]
    assert [w for w in words if len(w) == 2][-3:] == [["ant", "2"], ["bee", "0"], ["cat", "1"]]
    assert "1 file is not an image and is passed over (1 .txt)" in out
    assert "1 of 3 classes have no images (bee)" in out


def test_held_out_images_are_told_of_too(tmp_path, capsys):
    tree = "train/0.png test/1.png test/2.png test/bad.png val/3.png"
    root = write_folder(tmp_path / "it", parsed(tree) | {"test/bad.png": b"none"})
    images_of(str(root), 8, 3, reading=Reading(skip_bad=True))
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        f"{root}/train: grey made RGB: 1 image",
        f"{root}/train: the folder 'val' is not used beside 'test'",
        f"{root}/train: 1 image, no classes",
        f"held out: left out 1 image. The first: {root}/test/bad.png can't be read (not BMP, GIF,"
        " JPEG, PNG, PPM, TIFF, WEBP, AVIF, DDS, DIB, ICO, JPEG2000, PCX, PSD, QOI, SGI, TGA).",
        f"held out: {root}/test: grey made RGB: 2 images",
        f"held out: {root}/test: the folder 'val' is not used beside 'test'",
        f"held out: {root}/test: 2 images, no classes",
    ]


def test_classes_of_latents_are_shown_before_training(tmp_path, capsys):
    for name, count in (("ant", 2), ("bee", 0), ("cat", 1)):
        (tmp_path / "it" / name).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (16, 16), (number, 9, 9)).save(
                tmp_path / "it" / name / f"{number}.png"
            )
    (tmp_path / "vae").mkdir()
    tiny_vae().write_into(tmp_path / "vae")
    words = f"--vae {tmp_path / 'vae'} --resolution 16 --out {tmp_path / 'latents'}"
    main(["data", "encode", str(tmp_path / "it"), *words.split()])
    capsys.readouterr()
    network = dataclasses.replace(TINY_TRANSFORMER, num_classes=3)
    recipe = dataclasses.replace(
        LATENT, data=str(tmp_path / "latents"), vae=str(tmp_path / "vae"), network=network,
        encoded_images=None, mirror=False,
    )  # fmt: skip
    from overtone.training.material import material_of

    material_of(recipe)
    assert capsys.readouterr().err.splitlines() == [
        "it: 1 of 3 classes have no images (bee)",
        "it: 3 images, 3 classes: ant (2), bee (0), cat (1)",
    ]


def png16(kind, channels, value):
    """A PNG with 16 bits a channel, which Pillow writes of grey alone."""

    def chunk(name, content):
        body = name + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    row = b"\0" + struct.pack(">H", value) * (8 * channels)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 16, kind, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(row * 8))
    return b"\x89PNG\r\n\x1a\n" + head + body + chunk(b"IEND", b"")


def saved(array, form, **options):
    content = io.BytesIO()
    Image.fromarray(array).save(content, form, **options)
    return content.getvalue()


def pnm(kind, value, highest):
    size = 1 if highest < 256 else 2
    channels = 3 if kind == "P6" else 1
    return f"{kind}\n8 8\n{highest}\n".encode() + value.to_bytes(size, "big") * (64 * channels)


DARK = ", as if 65,535 were white, though the brightest pixel has 12 bits"
FULL, TWELVE = 65535, 4095
VALUES = {
    "grey": (png16(0, 1, FULL), 255, "16 bits scaled to 8"),
    "grey of 12 bits": (png16(0, 1, TWELVE), 16, "16 bits scaled to 8" + DARK),
    "colour": (png16(2, 3, FULL), 255, "16 bits cut to 8"),
    "colour of 12 bits": (png16(2, 3, TWELVE), 15, "16 bits cut to 8" + DARK),
    "grey and transparent": (png16(4, 2, FULL), 255, "16 bits cut to 8"),
    "black": (png16(0, 1, 0), 0, "though the brightest pixel has 1 bit or none"),
    "TIFF": (saved(np.full((8, 8), FULL, np.uint16), "tiff"), 255, "16 bits scaled to 8"),
    "integers": (
        saved(np.full((8, 8), 200, np.int32), "tiff"),
        1,
        "16 bits scaled to 8, as if 65,535 were white, though the brightest pixel has 8 bits",
    ),
    "JPEG 2000": (saved(np.full((8, 8), FULL, np.uint16), "jpeg2000"), 255, "16 bits scaled to 8"),
    "SGI": (saved(np.full((8, 8), 255, np.uint8), "sgi", bpc=2), None, "16 bits cut to 8"),
    "PGM": (pnm("P5", 1023, 1023), 255, "16 bits scaled to 8"),
    "PPM": (pnm("P6", 1023, 1023), 255, None),
    "8 bits": (png(255), 255, None),
}


@pytest.mark.parametrize("kind", VALUES)
def test_values_that_are_not_8_bits_are_told_with_what_was_done(tmp_path, kind):
    content, value, said = VALUES[kind]
    (tmp_path / "a.png").write_bytes(content)  # read by what it holds
    data = open_data(str(tmp_path), 8, 3)
    if value is not None:
        assert set(data.fetch([0])[0].flatten().tolist()) == {value}
    done = [what for what in data.conversions if what.startswith("16 bits")]
    assert done == ([] if said is None else [done[0]])
    assert said is None or done[0].endswith(said)
    assert dict(inspect_data(str(tmp_path)).conversions) == dict(data.conversions)


def test_a_picture_that_is_decoded_alone_is_the_same(tmp_path, monkeypatch):
    """Large ones are, for the memory they take."""
    (tmp_path / "a.png").write_bytes(png(7, (600, 500)))
    monkeypatch.setattr("overtone.data.reading.LARGE", 1000)
    pixels, _ = open_data(str(tmp_path), 8, 1).fetch([0])
    assert torch.equal(pixels, torch.full((1, 1, 8, 8), 7, dtype=torch.uint8))
