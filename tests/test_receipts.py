"""Receipts: what they hold and do not hold, and images made again from them."""

import dataclasses
import importlib.metadata
import json
import re

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

from helpers import (
    DIFFUSERS_MARKS,
    TINY_ADM,
    TINY_DIFFIT,
    TINY_DSNO,
    TINY_TRANSFORMER,
    awake,
    tiny_vae,
)
from overtone import load_pipeline, storage
from overtone.cli.app import main
from overtone.denoisers import GuidanceSettings, VPPreconditioning
from overtone.errors import OvertoneError
from overtone.networks import ADMUNet, DiffiTTransformer, DiffiTUNet, DSNOUNet, Experts
from overtone.pipelines import (
    DiffiTPipeline,
    DSNOPipeline,
    LatentDiffiTPipeline,
    MEMEPipeline,
    RelayPipeline,
    Request,
)
from overtone.pipelines.pictures import to_pil
from overtone.pipelines.receipt import Receipt, Receipts
from overtone.pipelines.receipt_files import read_receipt, save_png
from overtone.pipelines.replay import Replayer
from overtone.pipelines.seeds import seeds_of, text_of
from overtone.processes import DiscreteSchedule, QuantileSchedule, RelayProcess
from overtone.samplers import AncestralSampler, OperatorSampler, Sampler

pytestmark = DIFFUSERS_MARKS
SECRET = "somebodys-secret-place"


def pixel_model(**parts):
    torch.manual_seed(4)
    return DiffiTPipeline(awake(DiffiTUNet(TINY_DIFFIT)), Sampler(num_steps=3), **parts)


def second_stage(eta=0.0):
    torch.manual_seed(5)
    config = dataclasses.replace(TINY_ADM, resolution=16, attention_resolutions=(8,))
    sampler = Sampler(num_steps=4, sigma_min=0.01, truncation_sigma=0.9, eta=eta)
    process = RelayProcess(patch=2, schedule=QuantileSchedule(prob_length=0.93))
    return RelayPipeline(awake(ADMUNet(config)), sampler, process=process)


def relay():
    pipe = second_stage(eta=0.2)
    pipe.first = pixel_model(guidance=GuidanceSettings(1.5))
    return pipe


def experts():
    torch.manual_seed(6)
    networks = [awake(ADMUNet(TINY_ADM)), awake(DiffiTUNet(TINY_DIFFIT))]
    return MEMEPipeline(Experts(networks, (1.0,)), Sampler(num_steps=4))


def operator():
    torch.manual_seed(7)
    return DSNOPipeline(awake(DSNOUNet(TINY_DSNO)), OperatorSampler((80.0, 5.0, 0.0)))


def latent():
    torch.manual_seed(8)
    network = awake(DiffiTTransformer(TINY_TRANSFORMER))
    return LatentDiffiTPipeline(network, AncestralSampler(num_steps=3), vae=tiny_vae())


def discrete():
    torch.manual_seed(9)
    row = VPPreconditioning(schedule=DiscreteSchedule())
    return DiffiTPipeline(awake(DiffiTUNet(TINY_DIFFIT)), Sampler(num_steps=3), preconditioning=row)


MODELS = {
    "pixels": (pixel_model, []),
    "guided": (pixel_model, ["--guidance-scale", "2", "--guidance-interval", "0.1", "10"]),
    "stochastic": (pixel_model, ["--sampler.eta", "0.6", "--classes", "2", "0"]),
    "churned, in batches of 3": (pixel_model, ["--sampler.S-churn", "4", "--batch-size", "3"]),
    "finished": (pixel_model, ["--finish", "relay-celebahq", "--steps", "2"]),
    "experts": (experts, ["--batch-size", "4"]),
    "a relay": (relay, ["--first-stage.steps", "2", "--batch-size", "7"]),
    "an operator": (operator, []),
    "latents": (latent, ["--guidance-scale", "1.5"]),
    "a scheduler": (discrete, ["--scheduler", "DDIMScheduler", "--steps", "4"]),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_ten_images_of_each_kind_of_model_are_made_again_bit_by_bit(name, tmp_path, capsys):
    """100 of 100, each from its own PNG alone: the model is found where it was opened."""
    make, options = MODELS[name]
    make().save_pretrained(tmp_path / "model")
    main(["sample", str(tmp_path / "model"), "--seeds", "3,90-97,4000000000",
          "--out", f"{tmp_path}/images", *options])  # fmt: skip
    files = sorted((tmp_path / "images").iterdir())
    assert len(files) == 10
    capsys.readouterr()
    for file in files:
        main(["replay", str(file)])
        seed = int(file.stem.partition("-")[0])
        assert capsys.readouterr().out == f"seed {seed}: the very same image\n"
    with pytest.raises(SystemExit):
        main(["replay", str(files[1]), "--seed", "7"])
    assert capsys.readouterr().err.startswith("overtone: --seed 7: the image has the receipt of ")


def test_a_grid_and_its_images_from_one_receipt(tmp_path, capsys):
    relay().save_pretrained(tmp_path / "model")
    grid = tmp_path / "grid.png"
    main(["sample", str(tmp_path / "model"), "--seeds", "5-16", "--batch-size", "5",
          "--out", str(grid)])  # fmt: skip
    capsys.readouterr()
    main(["replay", str(grid), "--out", f"{tmp_path}/again.png"])
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"seed {seed}: the very same image" for seed in range(5, 17)]
    with Image.open(grid) as one, Image.open(tmp_path / "again.png") as other:
        assert np.array_equal(np.asarray(one), np.asarray(other))
    assert read_receipt(tmp_path / "again.png") == read_receipt(grid)
    nine = tmp_path / "nine.png"
    main(["replay", str(grid), "--seed", "9", "--out", str(nine)])
    assert capsys.readouterr().out == "seed 9: the very same image\n"
    # The first batch is of the seeds 5 to 9.
    assert (read_receipt(nine).seed, read_receipt(nine).seeds) == (9, "5-9")
    main(["replay", str(nine)])
    assert capsys.readouterr().out == "seed 9: the very same image\n"


def test_in_another_batch_an_image_is_within_one_grey_level(tmp_path, capsys):
    pipe = pixel_model(precision="fp32")
    pipe.save_pretrained(tmp_path / "model")
    main(["sample", str(tmp_path / "model"), "--seeds", "0-8", "--out", f"{tmp_path}/images"])
    receipt = read_receipt(tmp_path / "images" / "000005-class2.png")
    alone = dataclasses.replace(receipt, seeds="5", class_labels=(2,), batch_size=1)
    with Image.open(tmp_path / "images" / "000005-class2.png") as picture:
        save_png(picture, tmp_path / "alone.png", alone)
    capsys.readouterr()
    main(["replay", f"{tmp_path}/alone.png", "--model", f"{tmp_path}/model"])
    said = capsys.readouterr().out
    assert "the very same image" in said or "differ by one grey level at most" in said


def test_guides_and_edited_pictures(tmp_path, capsys):
    pixel_model().save_pretrained(tmp_path / "model")
    weaker = pixel_model()
    for parameter in weaker.network.parameters():
        parameter.data.mul_(0.9)
    weaker.save_pretrained(tmp_path / "weaker")
    main(["sample", f"{tmp_path}/model", "--seeds", "0-2", "--guide", f"{tmp_path}/weaker",
          "--guidance-scale", "2", "--out", f"{tmp_path}/guided"])  # fmt: skip
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8) * 3).save(tmp_path / "own.png")
    Image.fromarray(np.eye(8, dtype=np.uint8) * 255).save(tmp_path / "mask.png")
    edit = ["edit", f"{tmp_path}/model", f"{tmp_path}/own.png", "--classes", "1", "--seeds", "4",
            "--strength", "0.7", "--mask", f"{tmp_path}/mask.png"]  # fmt: skip
    main([*edit, "--out", f"{tmp_path}/edited.png"])
    capsys.readouterr()
    main(["replay", f"{tmp_path}/guided/000001-class1.png"])
    assert capsys.readouterr().out == "seed 1: the very same image\n"
    own = ["--picture", f"{tmp_path}/own.png", "--mask", f"{tmp_path}/mask.png"]
    main(["replay", f"{tmp_path}/edited.png", *own])
    assert capsys.readouterr().out == "seed 4: the very same image\n"
    for options, message in (
        ([], "made from a picture that its receipt does not hold: pass --picture FILE"),
        (own[:2], "made from a mask that its receipt does not hold: pass --mask FILE"),
        (["--picture", f"{tmp_path}/mask.png", *own[2:]], "--picture is another picture than"),
    ):
        with pytest.raises(SystemExit):
            main(["replay", f"{tmp_path}/edited.png", *options])
        assert message in capsys.readouterr().err


def test_a_run_that_went_on_is_searched_for_the_checkpoint(tmp_path, capsys):
    run = tmp_path / "run"
    pixel_model().save_pretrained(run / "checkpoints" / "000000032")
    storage.write_json(run / "run.json", {})
    main(["sample", str(run), "--seeds", "0", "--out", f"{tmp_path}/images"])
    later = pixel_model()
    for parameter in later.network.parameters():
        parameter.data.add_(0.01)
    later.save_pretrained(run / "checkpoints" / "000000064")
    capsys.readouterr()
    main(["replay", f"{tmp_path}/images/000000-class0.png", "--model", str(run)])
    assert capsys.readouterr().out == "seed 0: the very same image\n"
    later.save_pretrained(tmp_path / "later")
    with pytest.raises(SystemExit):
        main(["replay", f"{tmp_path}/images/000000-class0.png", "--model", f"{tmp_path}/later"])
    said = capsys.readouterr().err
    assert re.search(
        r"later has other weights than the receipt is of: \w{16}, and not \w{16}", said
    )


@pytest.mark.parametrize("threads", [1, 3])
def test_an_image_is_made_again_with_as_many_threads(threads):
    pipe, seen = pixel_model(), []
    receipt = Receipts(pipe, Request([3])).whole
    environment = dataclasses.replace(receipt.environment, threads=threads)
    replayer = Replayer(pipe, dataclasses.replace(receipt, environment=environment))
    stream = pipe.stream
    pipe.stream = lambda request: seen.append(torch.get_num_threads()) or stream(request)
    before = torch.get_num_threads()
    made = replayer.of(3)
    assert seen == [threads]
    assert made.receipt.environment.threads == threads  # those that it was made with
    assert made.differences == ()
    assert torch.get_num_threads() == before


def test_a_batch_is_no_larger_than_its_seeds(tmp_path, capsys):
    pipe = pixel_model()
    assert Receipts(pipe, Request(range(3), batch_size=10**9)).whole.batch_size == 3
    pipe.save_pretrained(tmp_path / "model")
    with pytest.raises(SystemExit):
        main(["sample", f"{tmp_path}/model", "--batch-size", "70000"])
    assert "--batch-size must be at most 65,536, not 70000" in capsys.readouterr().err


def test_what_was_changed_is_told(tmp_path, capsys):
    pixel_model().save_pretrained(tmp_path / "model")
    main(["sample", f"{tmp_path}/model", "--seeds", "0-1", "--out", f"{tmp_path}/images"])
    file = tmp_path / "images" / "000001-class1.png"
    receipt = read_receipt(file)
    with Image.open(file) as picture:
        pixels = np.array(picture)
    pixels[2, 3] = (int(pixels[2, 3]) + 77) % 256
    save_png(Image.fromarray(pixels), tmp_path / "tampered.png", receipt)
    with pytest.raises(SystemExit) as ended:
        main(["replay", f"{tmp_path}/tampered.png"])
    assert ended.value.code == 1
    difference = max(77 if int(pixels[2, 3]) >= 77 else 179, 0)
    assert f"differ by {difference} grey levels at most" in capsys.readouterr().out
    # Another machine, and other code: said, and no reason to fail.
    elsewhere = dataclasses.replace(
        receipt.environment, code="0" * 16, hardware="another", versions={"torch": "1.0"}
    )
    storage.write_json(
        tmp_path / "receipt.json", dataclasses.replace(receipt, environment=elsewhere).as_json()
    )
    main(["replay", f"{tmp_path}/receipt.json"])
    said = capsys.readouterr().out
    assert said.startswith("seed 1: the very same image\n")
    for words in (
        "differs: the digest of Overtone's code was 0000000000000000 and is",
        "differs: the hardware was another and is",
        "differs: the version of torch was 1.0 and is",
    ):
        assert words in said
    # Settings that the model does not have.
    account = receipt.account | {"process": {"kind": "RelayProcess"}}
    storage.write_json(
        tmp_path / "other.json", dataclasses.replace(receipt, account=account).as_json()
    )
    with pytest.raises(SystemExit):
        main(["replay", f"{tmp_path}/other.json"])
    assert "makes other images than the receipt is of: process" in capsys.readouterr().err


def test_a_report_is_a_receipt(tmp_path, capsys, monkeypatch):
    from overtone.metrics.extractors import RandomFeatures

    monkeypatch.setattr(RandomFeatures, "needs_classes", False)
    pixel_model(data="builtin:digits").save_pretrained(tmp_path / "model")
    main(["evaluate", f"{tmp_path}/model", "--seeds", "0-19", "--extractor", "random",
          "--data", f"{_folder(tmp_path)}", "--batch-size", "6",
          "--out", f"{tmp_path}/report.json"])  # fmt: skip
    capsys.readouterr()
    main(["replay", f"{tmp_path}/report.json", "--seed", "13", "--out", f"{tmp_path}/13.png"])
    assert "seed 13: made again" in capsys.readouterr().out
    pipe = load_pipeline(tmp_path / "model")
    expected = next(pipe.stream(range(12, 18))).images[1]
    with Image.open(tmp_path / "13.png") as made:
        assert np.array_equal(np.asarray(made), expected[0].numpy())
    main(["replay", f"{tmp_path}/13.png"])  # which has its own receipt
    assert "seed 13: the very same image" in capsys.readouterr().out


def _folder(tmp_path):
    for number in range(24):
        folder = tmp_path / "real" / "abc"[number % 3]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.random.RandomState(number).randint(0, 256, (8, 8), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return tmp_path / "real"


def strings(value):
    """Every text in a JSON value, keys too."""
    if isinstance(value, dict):
        for key, entry in value.items():
            yield key
            yield from strings(entry)
    elif isinstance(value, list):
        for entry in value:
            yield from strings(entry)
    elif isinstance(value, str):
        yield value


def test_no_receipt_holds_a_path_or_a_name_of_the_machine(tmp_path, capsys):
    import getpass
    import socket

    place = tmp_path / SECRET
    second_stage().save_pretrained(place / "second")
    trained = {"distilled from": f"{place}/teacher"}
    pixel_model(data=f"{place}/data", training=trained).save_pretrained(place / "first")
    main(["sample", f"{place}/second", "--first", f"{place}/first", "--seeds", "0-1",
          "--out", f"{place}/images"])  # fmt: skip
    main(["sample", f"{place}/second", "--first", f"{_folder(place)}", "--classes", "0",
          "--seeds", "0-1", "--out", f"{place}/others"])  # fmt: skip
    main(["sample", f"{place}/first", "--guide", f"{place}/first", "--guidance-scale", "2",
          "--seeds", "0", "--out", f"{place}/guided.png"])  # fmt: skip
    found = 0
    for file in place.rglob("*.png"):
        if "real" in file.parts:
            continue
        found += 1
        for text in strings(read_receipt(file).as_json()):
            assert SECRET not in text
            assert not text.startswith(("/", "~"))
            assert str(tmp_path) not in text
            assert socket.gethostname() not in text
            assert getpass.getuser() not in text.split("/")
    assert found == 7
    capsys.readouterr()
    main(["replay", f"{place}/images/000001-class1.png"])
    assert capsys.readouterr().out == "seed 1: the very same image\n"


def test_what_a_receipt_says():
    pipe = pixel_model(training={"data digest": "abc"})
    request = Request(range(10, 15), batch_size=3)
    receipts = Receipts(pipe, request, model="you/digits")
    batches = list(pipe.stream(request))
    one = receipts.of_image(batches[1], 1)
    assert (one.seed, one.seeds, one.class_labels, one.batch_size) == (14, "13-14", (1, 2), 2)
    written = one.as_json()
    assert written["model"] == "you/digits"
    assert written["weights"] == pipe.made_with()["weights"]
    assert written["training"] == {"data digest": "abc"}
    assert re.fullmatch(r"[0-9a-f]{16}", written["environment"]["code"])
    assert written["environment"]["versions"]["torch"] == importlib.metadata.version("torch")
    assert written["environment"]["threads"] == torch.get_num_threads()
    assert Receipt.from_json(json.loads(json.dumps(written)), "x") == one
    assert receipts.whole.batch_of(14) == ([13, 14], [1, 2])
    assert receipts.whole.batch_of(10) == ([10, 11, 12], [1, 2, 0])


def test_batches_of_several_processes():
    receipt = Receipts(pixel_model(), Request(range(20), batch_size=4)).whole
    shared = dataclasses.replace(receipt, processes=3)
    # Process 1 has the seeds 1, 4, 7, 10, 13, 16, 19, in batches of four.
    assert shared.batch_of(13) == ([13, 16, 19], [1, 1, 1])
    assert shared.batch_of(4) == ([1, 4, 7, 10], [1, 1, 1, 1])


@pytest.mark.parametrize("seeds", [[0], [5, 3, 4], list(range(100)), [7, 8, 9, 2, 3, 11]])
def test_seeds_as_text(seeds):
    assert seeds_of(text_of(seeds)) == seeds


@pytest.fixture(scope="module")
def png(tmp_path_factory):
    folder = tmp_path_factory.mktemp("receipts")
    pipe = pixel_model()
    request = Request([0, 1])
    batch = next(pipe.stream(request))
    receipt = Receipts(pipe, request).of_image(batch, 1)
    save_png(to_pil(batch.images[1]), folder / "good.png", receipt)
    return folder / "good.png"


def changed(**changes):
    def change(data):
        return data | changes

    return change


DAMAGED = {
    "no JSON object": (lambda data: [data], "holds no receipt"),
    "nothing": (lambda data: {}, "holds no receipt"),
    "a text": (lambda data: "x", "holds no receipt"),
    "another version": (changed(receipt=99), "receipt of version 99"),
    "a version of none": (changed(receipt=0), "receipt must be"),
    "a version in words": (changed(receipt="one"), "receipt"),
    "an unknown key": (changed(path="/etc/passwd"), "'path' is nothing that a receipt holds"),
    "no weights": (lambda data: {k: v for k, v in data.items() if k != "weights"}, "'weights'"),
    "no sampler": (lambda data: {k: v for k, v in data.items() if k != "sampler"}, "'sampler'"),
    "seeds that are none": (changed(seeds="a-b"), "like 0-63 or 3,5,8-12"),
    "seeds without end": (changed(seeds="0-4294967295"), "1,000,000 are the most"),
    "a seed twice": (changed(seeds="1,1"), "twice"),
    "seeds of another type": (changed(seeds=[0, 1]), "seeds"),
    "a seed that is none of them": (changed(seed=7), "its seed 7 is none of its seeds"),
    "a negative seed": (changed(seed=-1), "seed must be"),
    "a batch of none": (changed(batch_size=0), "batch_size must be"),
    "a batch without end": (changed(batch_size=10**6), "batch_size must be"),
    "a batch of nan": (changed(batch_size=float("nan")), "batch_size"),
    "labels of another type": (changed(class_labels=["cat"]), "class_labels"),
    "negative labels": (changed(class_labels=[-1]), "class_labels"),
    "labels above": (changed(class_labels=[99]), "outside 0..2"),
    "a sampler of no kind": (changed(sampler={"kind": "Nothing"}), "Nothing"),
    "a sampler of nothing": (changed(sampler=3), "unknown sampler"),
    "a sampler that takes long": (
        changed(sampler={"kind": "Sampler", "num_steps": 10**9}), "num_steps must be at most"),
    "a scheduler that takes long": (
        changed(sampler={"kind": "DDIMScheduler", "config": {"num_train_timesteps": 10**9}}),
        "at most 100,000 timesteps"),
    "a scheduler of no settings": (changed(sampler={"kind": "DDIMScheduler"}), "an object"),
    "guidance of no number": (changed(guidance={"scale": "high"}), "scale"),
    "precision of no name": (changed(precision="fp8"), "precision is auto, bf16 or fp32"),
    "another finish": (changed(finish="oil"), "unknown finish"),
    "threads below none": (changed(environment={"threads": -1}), "threads must be"),
    "threads without end": (changed(environment={"threads": 10**12}), "threads must be"),
    "an environment of more": (changed(environment={"host": "x"}), "host"),
    "other weights": (changed(weights="0" * 16), "was not opened on this machine yet"),
    "weights that are a path": (changed(weights="../../etc"), "was not opened on this machine yet"),
    "another process": (changed(process={"kind": "x"}), "process.kind"),
    "a picture to edit": (changed(edit={"picture": "ab"}), "made from a picture that its"),
    "a start of another kind": (changed(start=[1]), "start"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGED)
def test_receipts_that_say_something_else_are_refused_in_one_line(name, png, tmp_path, capsys):
    change, message = DAMAGED[name]
    pixel_model().save_pretrained(tmp_path / "model")
    data = change(read_receipt(png).as_json())
    text = PngImagePlugin.PngInfo()
    text.add_text("overtone", json.dumps(data), zip=True)
    with Image.open(png) as picture:
        picture.save(tmp_path / "changed.png", pnginfo=text)
    given = [] if "not opened" in message else ["--model", f"{tmp_path}/model"]
    with pytest.raises(SystemExit) as ended:
        main(["replay", f"{tmp_path}/changed.png", *given])
    assert ended.value.code == 1
    said = capsys.readouterr().err.strip()
    assert message in said
    assert len(said.splitlines()) <= 2


def files(png, folder):
    whole = png.read_bytes()
    Image.new("L", (8, 8)).save(folder / "plain.png")
    for name, content in {
        "empty.png": b"",
        "cut.png": whole[: len(whole) // 2],
        "head.png": whole[:8],
        "text.txt": b"hello",
        "binary.json": b"\xff\xfe\x00",
        "broken.json": b'{"receipt": 1,',
        "deep.json": b"[" * 100_000,
        "garbled.png": whole[:40] + b"\x00" * 40 + whole[80:],
    }.items():
        (folder / name).write_bytes(content)
    bomb = PngImagePlugin.PngInfo()
    bomb.add_text("overtone", "0" * 2**21, zip=True)
    Image.new("L", (8, 8)).save(folder / "bomb.png", pnginfo=bomb)
    (folder / "directory.png").mkdir()
    return sorted(file for file in folder.iterdir())


def test_files_that_hold_no_receipt(png, tmp_path):
    tried = [*files(png, tmp_path), tmp_path / "absent.png"]
    assert len(tried) == 12
    for file in tried:
        with pytest.raises(OvertoneError, match=r"can't be read|holds no receipt|neither a PNG"):
            read_receipt(file)
