"""What happens when a user gets something wrong: the command, and what it answers.

Every case ends with a message on one or two lines, no traceback, a non-zero status, and nothing
left behind. Folders named below are made by `place`, each with the one fault that its name tells.
"""

import json
import pickle
import shutil
import zipfile
from io import BytesIO

import numpy as np
import pytest
from datasets import Dataset, Features, Value
from datasets import Image as ImageFeature
from PIL import Image

from helpers import TINY_DIFFIT, TINY_SONG, TINY_TRANSFORMER, tiny_vae
from overtone.cli.app import main
from overtone.denoisers import ADM_DIFFUSION
from overtone.networks import DiffiTConfig, DiffiTTransformer, DiffiTUNet, SongUNet, temporalize
from overtone.pipelines import (
    DiffiTPipeline,
    DSNOPipeline,
    LatentDiffiTPipeline,
    MEMEPipeline,
    Pipeline,
    RelayPipeline,
)
from overtone.processes import RelayProcess
from overtone.samplers import AncestralSampler, Sampler

OF = "dsno-digits --teacher {place}/model --guidance-scale 1 --num-times 2 --count 16 --held-out 8"
COLLECT, DISTIL = f"distill collect {OF}", f"distill train {OF}"


def cases(text):
    lines = [line for line in text.splitlines() if line]
    for at in range(0, len(lines), 3):
        what, command, answer = (line.strip() for line in lines[at : at + 3])
        yield pytest.param(command, answer, id=what)


def picture(folder, name, size=32, mode="RGB"):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(folder / name)


def zipped(file, labels):
    content = BytesIO()
    Image.new("RGB", (32, 32)).save(content, "png")
    with zipfile.ZipFile(file, "w") as archive:
        for name in ("a.png", "b.png"):
            archive.writestr(name, content.getvalue())
        archive.writestr("dataset.json", json.dumps({"labels": labels}))


def edited(folder, file, change):
    """A copy of the model with one JSON file changed."""
    shutil.copytree(folder.parent / "model", folder)
    content = json.loads((folder / file).read_text())
    change(content)
    (folder / file).write_text(json.dumps(content))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("place")
    (root / "empty").mkdir()
    (root / "folder.png").mkdir()
    picture(root / "plain", "a.png")
    picture(root / "small", "a.png", 16)
    picture(root / "corrupt", "a.png")
    picture(root / "corrupt", "b.jpg")
    whole = (root / "corrupt" / "b.jpg").read_bytes()
    (root / "corrupt" / "b.jpg").write_bytes(whole[: len(whole) // 2])
    (root / "float").mkdir()
    Image.fromarray(np.zeros((32, 32), np.float32)).save(root / "float" / "a.tiff")
    picture(root / "stray", "cat/a.png")
    picture(root / "stray", "stray.png")
    picture(root / "splits", "train/cat/a.png")
    picture(root / "splits", "test/dog/a.png")
    (root / "none.zip").write_bytes(b"not a zip")
    zipped(root / "unlabelled.zip", [["a.png", 0]])
    zipped(root / "vectors.zip", [["a.png", [0.5, 0.5]], ["b.png", 1]])

    features = Features({"img": ImageFeature(), "id": Value("int32")})
    good = {"img": [Image.new("RGB", (32, 32))], "id": [0]}
    Dataset.from_dict(good, features=features).to_parquet(root / "good.parquet")
    Dataset.from_dict({"text": ["a"]}).to_parquet(root / "text.parquet")
    (root / "pointing").mkdir()
    away = {"img": [{"bytes": None, "path": str(root / "plain" / "a.png")}], "id": [0]}
    Dataset.from_dict(away, features=features).to_parquet(root / "pointing" / "train.parquet")

    recipe = {"about": "", "network": {"kind": "DiffiTUNet"}}
    (root / "misspelt.json").write_text(json.dumps(recipe | {"trainin": {}}))
    (root / "word.json").write_text(json.dumps(recipe | {"training": {"lr": "fast"}}))
    (root / "short.json").write_text(json.dumps(recipe)[:20])

    sampler = Sampler(num_steps=2)
    network = DiffiTUNet(TINY_DIFFIT)
    DiffiTPipeline(network, sampler, class_names=("cat", "dog", "emu")).save_pretrained(
        root / "model"
    )
    small = {"resolution": 8, "channels": 1, "widths": (16,), "num_cells": (1,), "head_channels": 8}
    DiffiTPipeline(DiffiTUNet(DiffiTConfig(**small)), sampler).save_pretrained(
        root / "unconditional"
    )
    five = DiffiTUNet(DiffiTConfig(**small, num_classes=5))
    DiffiTPipeline(five, sampler).save_pretrained(root / "other")
    edited(root / "key", "network/config.json", lambda c: c.update(windows=4))
    edited(root / "network", "pipeline.json", lambda c: c.update(network="DiffiTNet"))
    shutil.copytree(root / "model", root / "damaged")
    (root / "damaged" / "pipeline.json").write_text('{"pipeline": "Dif')
    shutil.copytree(root / "model", root / "cut")
    weights = root / "cut" / "network" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    Pipeline(SongUNet(TINY_SONG), sampler).save_pretrained(root / "song")
    low = Sampler(num_steps=4, sigma_min=0.01, truncation_sigma=0.9)
    relay = RelayPipeline(DiffiTUNet(TINY_DIFFIT), low, process=RelayProcess(patch=2))
    relay.save_pretrained(root / "relay")
    pair = [DiffiTPipeline(DiffiTUNet(TINY_DIFFIT), sampler) for _ in range(2)]
    MEMEPipeline.merged(pair, (1.0,)).save_pretrained(root / "meme")
    shutil.copytree(root / "meme", root / "lacking")
    shutil.rmtree(root / "lacking" / "network" / "2")
    shutil.copytree(root / "meme", root / "crossed")
    config = json.loads((root / "crossed" / "network" / "config.json").read_text())
    (root / "crossed" / "network" / "config.json").write_text(
        json.dumps(config | {"boundaries": [-1.0]})
    )
    (root / "experts" / "expert-1" / "checkpoints" / "000000064").mkdir(parents=True)
    (root / "experts" / "run.json").write_text(json.dumps({"experts": 2, "boundaries": [1.0]}))
    large = DiffiTUNet(DiffiTConfig(**small | {"resolution": 16}))
    DiffiTPipeline(large, sampler).save_pretrained(root / "larger")
    (root / "evil.pkl").write_bytes(b"cbuiltins\neval\n(S'1 / 0'\ntR.")
    (root / "list.pkl").write_bytes(pickle.dumps([1]))
    (root / "short.pkl").write_bytes(pickle.dumps({"ema": [1.5] * 100})[:40])
    shutil.copytree(root / "model", root / "swapped")
    shutil.copy(root / "song/network/model.safetensors", root / "swapped/network")

    for name, changes in (
        ("vae", {}),
        ("another", {}),
        ("vae3", {"latent_channels": 3}),
        ("vae8", {"widths": (4, 4, 4, 4), "resolution": 64}),
    ):
        (root / name).mkdir()
        tiny_vae(**changes).write_into(root / name)
    shutil.copytree(root / "vae", root / "unscaled")
    config = json.loads((root / "vae" / "config.json").read_text())
    del config["scaling_factor"]
    (root / "unscaled" / "config.json").write_text(json.dumps(config))
    LatentDiffiTPipeline(
        DiffiTTransformer(TINY_TRANSFORMER),
        AncestralSampler(num_steps=2),
        preconditioning=ADM_DIFFUSION,
        image_resolution=64,
    ).save_pretrained(root / "latent")
    encode = ["data", "encode", str(root / "plain"), "--vae", str(root / "vae")]
    main([*encode, "--resolution", "16", "--out", str(root / "kept")])
    shutil.copytree(root / "kept", root / "incomplete")
    (root / "incomplete" / "00000.safetensors").unlink()
    (root / "weights.pt").write_bytes(b"a pickle, for all we know")

    main([*COLLECT.format(place=root).split(), "--out", str(root / "solved")])
    shutil.copytree(root / "solved", root / "unsolved")
    file = root / "unsolved" / "00000.safetensors"
    file.write_bytes(file.read_bytes()[:-9])
    DSNOPipeline(temporalize(DiffiTUNet(TINY_DIFFIT))).save_pretrained(root / "operator")

    run = ["train", "diffit-digits", "--network.widths", "16", "16", "--network.head-channels", "8"]
    main([*run, "--total-images", "128", "--held-out-images", "64", "--out", str(root / "run")])
    return root


def check_answer(place, tmp_path, monkeypatch, capsys, command, answer):
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    before = sorted(place.rglob("*"))
    words = command.format(collect=COLLECT, distil=DISTIL, place="{place}").format(place=place)
    words = words.split()
    if "{place}/run" in command:  # all the settings of the run, but for one
        words += ["--network.widths", "16", "16", "--network.head-channels", "8"]
        words += ["--total-images", "128", "--held-out-images", "64"]
    with pytest.raises(SystemExit) as stop:
        main(words[1:])
    assert stop.value.code in (1, 2)
    errors = capsys.readouterr().err
    said = " ".join(errors.replace("│", " ").split())
    assert answer.format(place=place) in said
    assert "Traceback" not in said
    if stop.value.code == 1:
        message = errors[errors.index("overtone: ") :]
        assert len(message.splitlines()) <= 2
    assert list(tmp_path.iterdir()) == []
    assert sorted(place.rglob("*")) == before
