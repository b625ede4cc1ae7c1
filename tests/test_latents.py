"""Latents encoded once, and training on them."""

import dataclasses
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from helpers import TINY_TRANSFORMER, awake, tiny_vae
from overtone import storage
from overtone.cli.app import main
from overtone.data import ArrayData, open_data, to_unit
from overtone.data import latents as latents_module
from overtone.data.latents import LatentData, encode, latents_index
from overtone.denoisers import (
    ADM_DIFFUSION,
    EDMPreconditioning,
    GuidanceSettings,
    VPPreconditioning,
)
from overtone.errors import OvertoneError, RunInterruptedError
from overtone.networks import DiffiTTransformer
from overtone.pipelines import LatentDiffiTPipeline, load_pipeline
from overtone.processes import DiscreteSchedule, SeededNoise
from overtone.runs import find_checkpoint
from overtone.samplers import AncestralSampler
from overtone.training.configs.denoising import DenoisingRecipe
from overtone.training.loop import Trainer
from vaes import PLAN, REPORTS

LATENT = DenoisingRecipe(
    about="",
    data="builtin:glyphs",
    encoded_images=40,
    network=dataclasses.replace(TINY_TRANSFORMER, num_classes=0),
    class_conditional=True,
    label_dropout=0.1,
    preconditioning=ADM_DIFFUSION,
    schedule=DiscreteSchedule(),
    sampler=AncestralSampler(num_steps=2),
    training=PLAN,
    reporting=REPORTS,
)  # fmt: skip


def pictures(count=20, resolution=16, channels=3):
    shape = (count, channels, resolution, resolution)
    images = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    return ArrayData("pictures", images, np.arange(count) % 4, ["a", "b", "c", "d"])


def encoded(folder, data=None, vae=None, **changes):
    torch.manual_seed(0)
    data, vae = data or pictures(), vae or tiny_vae()
    return encode(data, vae, folder, latents_index(data, vae, **changes), show=False)


def test_latents_are_those_of_the_images(tmp_path):
    torch.manual_seed(3)
    data, vae = pictures(), tiny_vae()
    vae.scaling_factor, vae.shift_factor = 1.7, 0.3
    found = encoded(tmp_path / "latents", data, vae)
    assert (len(found), found.resolution, found.channels) == (20, 8, 4)
    order = [7, 0, 19]
    pixels, labels = data.fetch(order)
    with torch.no_grad():
        mean, std = vae.encode(to_unit(pixels))
    moments, own = found.fetch(order)
    assert moments.dtype == torch.float16
    assert torch.equal(own, labels)
    assert torch.allclose(moments.float(), torch.cat((mean, std), 1), atol=2e-3)
    # Drawn from the posterior, and scaled as diffused.
    source, noise = SeededNoise([1, 2, 3]), SeededNoise([1, 2, 3]).normal(mean)
    reference = 1.7 * (mean + std * noise - 0.3)
    assert torch.allclose(found.clean(moments, source), reference, atol=1e-2)
    # And what is decoded takes the scale off again.
    with torch.no_grad():
        decoded = vae.decode(1.7 * (mean - 0.3))
        assert torch.allclose(decoded, vae.model.decode(mean).sample, atol=1e-5)


def test_mirrored_latents_are_those_of_flipped_images(tmp_path):
    data, vae = pictures(), tiny_vae()
    found = encoded(tmp_path / "latents", data, vae, mirror=True)
    assert len(found) == 40
    pixels, labels = data.fetch([3])
    with torch.no_grad():
        mean, _ = vae.encode(to_unit(pixels).flip(3))
    moments, own = found.fetch([23])
    assert torch.equal(own, labels)
    assert torch.allclose(moments[:, :4].float(), mean, atol=2e-3)


def test_some_images_are_spread_over_the_data(tmp_path):
    data = pictures()
    found = encoded(tmp_path / "latents", data, images=5)
    _, labels = data.fetch([0, 4, 8, 12, 16])
    assert torch.equal(found.labels, labels)


def test_encoding_goes_on_where_it_was_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(latents_module, "BLOCK", 8)
    monkeypatch.setattr(latents_module, "BATCH", 4)
    data, vae = pictures(), tiny_vae()
    index = dataclasses.replace(latents_index(data, vae), block=8)
    encode(data, vae, tmp_path / "whole", index, show=False)
    calls, own = [], vae.encode

    def dying(images):
        calls.append(len(images))
        if len(calls) == 4:  # in the middle of the second file
            raise KeyboardInterrupt
        return own(images)

    monkeypatch.setattr(vae, "encode", dying)
    with pytest.raises(KeyboardInterrupt):
        encode(data, vae, tmp_path / "killed", index, show=False)
    assert sorted(f.name for f in (tmp_path / "killed").iterdir()) == [
        "00000.safetensors",
        "latents.json",
    ]
    with pytest.raises(OvertoneError, match=r"00001.safetensors, of 3 files, is missing: .*again"):
        LatentData(tmp_path / "killed")
    encode(data, vae, tmp_path / "killed", index, show=False)
    assert sum(calls) == 4 * 4 + 8 + 4  # the first file was not encoded again
    for file in (tmp_path / "whole").iterdir():
        assert file.read_bytes() == (tmp_path / "killed" / file.name).read_bytes()


def test_latents_of_something_else_are_refused(tmp_path):
    data, vae = pictures(), tiny_vae()
    encoded(tmp_path / "latents", data, vae)
    torch.manual_seed(9)
    with pytest.raises(OvertoneError, match=r"holds other latents \(vae: \"\w+\" -> \"\w+\"\)"):
        encoded(tmp_path / "latents", data, tiny_vae())
    with pytest.raises(OvertoneError, match=r"image_resolution: 16 -> 32; .*resolution: 8 -> 16"):
        encoded(tmp_path / "latents", pictures(resolution=32), vae)
    with pytest.raises(OvertoneError, match=r"mirrored: false -> true"):
        encoded(tmp_path / "latents", data, vae, mirror=True)
    # Files whose index was lost tell as well what they are of.
    (tmp_path / "latents" / "latents.json").unlink()
    torch.manual_seed(9)
    with pytest.raises(OvertoneError, match=r"00000.safetensors, of 1 files, was made with other"):
        encoded(tmp_path / "latents", data, tiny_vae())
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(OvertoneError, match="holds other files"):
        encoded(tmp_path / "other", data, vae)
    with pytest.raises(OvertoneError, match="takes images with 3 channels in multiples of 2 px"):
        latents_index(pictures(channels=1), vae)
    with pytest.raises(OvertoneError, match="never ends: say how many"):
        latents_index(open_data("builtin:glyphs", 16, 3), vae)


def test_damaged_latents_are_named(tmp_path):
    folder = tmp_path / "latents"
    fingerprint = encoded(folder).fingerprint
    file = folder / "00000.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-100])
    with pytest.raises(OvertoneError, match=r"00000.safetensors, of 1 files, is damaged"):
        LatentData(folder)
    mark = {"made with": fingerprint}
    storage.save_tensors(file, {"moments": torch.zeros(3, 8, 8, 8)}, mark)
    with pytest.raises(OvertoneError, match=r"has moments of shape \[3, 8, 8, 8\], not \[20, 8, 8"):
        LatentData(folder)
    storage.save_tensors(file, {"moments": torch.zeros(20, 8, 8, 8)}, mark)
    with pytest.raises(OvertoneError, match=r"is damaged \(.*tensor labels\)"):
        LatentData(folder)
    file.unlink()
    encoded(folder)
    assert file.read_bytes() == whole


def test_latents_go_to_loader_processes(tmp_path):
    found = encoded(tmp_path / "latents")
    found.fetch([0])
    again = pickle.loads(pickle.dumps(found))
    assert torch.equal(again.fetch([5])[0], found.fetch([5])[0])
    assert again.fingerprint == found.fingerprint


def test_a_vae_and_a_model_have_to_belong_together():
    network = DiffiTTransformer(TINY_TRANSFORMER)
    with pytest.raises(OvertoneError, match="its latents have 3 channels, the model's 4"):
        LatentDiffiTPipeline(
            network, preconditioning=ADM_DIFFUSION, vae=tiny_vae(latent_channels=3)
        )
    pipe = LatentDiffiTPipeline(network, preconditioning=ADM_DIFFUSION, image_resolution=64)
    with pytest.raises(OvertoneError, match="of images of 64 px, the VAE would make 8 px latents"):
        pipe.vae = tiny_vae()
    with pytest.raises(OvertoneError, match="the VAE and the network do not belong together"):
        Trainer.of(dataclasses.replace(LATENT, vae=str(_saved(tiny_vae(latent_channels=3)))))


def _saved(vae):
    import tempfile

    folder = Path(tempfile.mkdtemp())
    vae.write_into(folder)
    return folder


def test_training_encodes_samples_and_decodes(vae_folder, tmp_path, capsys):
    recipe = dataclasses.replace(LATENT, vae=str(vae_folder), mirror=True)
    trainer = Trainer.of(recipe, show=False)
    assert (len(trainer.task.data), len(trainer.task.held_out)) == (80, 16)
    trainer.run(tmp_path / "run")
    pipe = load_pipeline(find_checkpoint(tmp_path / "run"))
    assert isinstance(pipe, LatentDiffiTPipeline)
    assert pipe.vae.scaling_factor == 2.5
    assert (pipe.data, pipe.num_classes, pipe.resolution) == ("builtin:glyphs", 26, 16)
    run = str(tmp_path / "run")
    main(["sample", run, "--seeds", "0-25", "--out", str(tmp_path / "grid.png")])
    with Image.open(tmp_path / "grid.png") as grid:
        assert grid.width > 16 * 8
    main(["sample", run, "--seeds", "0-1", "--scheduler", "DDIMScheduler", "--steps", "3",
          "--out", str(tmp_path / "ddim.png")])  # fmt: skip
    main(["info", run])
    assert "image_resolution: 16" in capsys.readouterr().out
    # Goes on with its own latents, and not with those of another VAE, which is named.
    assert Trainer.of(recipe, show=False).run(tmp_path / "run").images == 64
    torch.manual_seed(8)
    other = dataclasses.replace(recipe, vae=str(_saved(tiny_vae())))
    with pytest.raises(OvertoneError, match=r"latents.vae: \"\w+\" -> \"\w+\""):
        Trainer.of(other, show=False).run(tmp_path / "run")


def test_a_stopped_run_on_latents_goes_on_to_the_same_bits(vae_folder, tmp_path):
    recipe = dataclasses.replace(LATENT, vae=str(vae_folder))
    plan = dataclasses.replace(PLAN, gradient_checkpointing=True)
    Trainer.of(recipe, show=False).run(tmp_path / "whole")
    stopped = Trainer.of(dataclasses.replace(recipe, training=plan), show=False)
    own, steps = stopped.step, []

    def step(model, batch):
        steps.append(1)
        stopped.stop_asked = len(steps) == 2
        return own(model, batch)

    stopped.step = step
    with pytest.raises(RunInterruptedError):
        stopped.run(tmp_path / "stopped")
    # Loader processes, and blocks computed twice, are no other settings.
    again = dataclasses.replace(recipe, reporting=dataclasses.replace(REPORTS, workers=1))
    Trainer.of(again, show=False).run(tmp_path / "stopped")
    weights = [
        storage.load_tensors(find_checkpoint(tmp_path / run) / "network" / "model.safetensors")
        for run in ("whole", "stopped")
    ]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_what_can_not_work_is_said_before_anything_is_encoded(vae_folder, monkeypatch):
    monkeypatch.setattr("overtone.training.material.encode", lambda *_, **__: 1 / 0)
    recipe = dataclasses.replace(LATENT, vae=str(vae_folder))
    other = DiscreteSchedule(betas="cosine")
    for changes, message in (
        ({"schedule": other}, "--schedule and --preconditioning.schedule differ"),
        (
            {"schedule": other, "preconditioning": VPPreconditioning(schedule=other)},
            "--schedule and --sampler.schedule differ",
        ),
        (
            {"preconditioning": dataclasses.replace(ADM_DIFFUSION, time_scale=1.0)},
            "--preconditioning.time-scale is 1, and the number of the last of 1000 steps is 999",
        ),
        ({"preconditioning": EDMPreconditioning()}, "learned_variance is of a VP denoiser"),
        ({"class_conditional": True, "data": "builtin:digits"}, "is 8 px and grey"),
    ):
        with pytest.raises(OvertoneError, match=message):
            Trainer.of(dataclasses.replace(recipe, **changes), show=False)
    monkeypatch.undo()
    fifth = GuidanceSettings(2.0, channels=(0, 4))
    with pytest.raises(OvertoneError, match=r"acts on channels \(0, 4\), and the model has 4"):
        Trainer.of(dataclasses.replace(recipe, guidance=fifth), show=False)


def test_a_figure_of_the_distance_against_guidance(vae_folder, tmp_path, monkeypatch):
    # On features that cost nothing: the figure and its data are what is tested.
    from overtone.metrics import Evaluation
    from overtone.metrics.features import Extractor, Features

    class Means(Extractor):
        name, digest, dims = "means", "0", 3

        def __call__(self, pixels):
            return Features(pixels.float().mean(dim=(2, 3)), None)

    def evaluation(self, data, resolution, channels, asked, num_classes=0, class_names=()):
        return Evaluation(Means(), pictures(40), limit=40)

    monkeypatch.setattr("overtone.cli.evaluate.Judging.evaluation", evaluation)
    network = awake(DiffiTTransformer(TINY_TRANSFORMER))
    pipe = LatentDiffiTPipeline(network, AncestralSampler(num_steps=2), vae=tiny_vae(), data="x")
    pipe.save_pretrained(tmp_path / "model")
    out = tmp_path / "guidance.png"
    main(["analyze", "guidance", str(tmp_path / "model"), "--scales", "4", "1", "--seeds", "0-7",
          "--data", "x", "--out", str(out)])  # fmt: skip
    reports = json.loads(out.with_suffix(".json").read_text())
    assert [report["made_with"]["guidance"]["scale"] for report in reports] == [1.0, 4.0]
    assert reports[0]["frechet_distance"] != reports[1]["frechet_distance"]
    with Image.open(out) as figure:
        assert figure.width > 300


def test_training_takes_encoded_latents(vae_folder, tmp_path, capsys, monkeypatch):
    out = tmp_path / "latents"
    command = ["data", "encode", "builtin:glyphs", "--vae", str(vae_folder), "--resolution", "16"]
    monkeypatch.setattr("overtone.data.builtin.Glyphs.__len__", lambda data: 50)
    main([*command, "--images", "40", "--out", str(out)])
    assert "40 latents of 8 x 8 px with 4 channels, and 50 of held-out" in capsys.readouterr().out
    recipe = dataclasses.replace(LATENT, data=str(out), vae=str(vae_folder), encoded_images=None)
    trainer = Trainer.of(recipe, show=False)
    assert isinstance(trainer.task.data, LatentData)
    assert isinstance(trainer.task.held_out, LatentData)
    assert trainer.run(tmp_path / "run").images == 64
    main([*command, "--images", "40", "--out", str(out)])  # nothing left to do
    torch.manual_seed(4)
    other = dataclasses.replace(recipe, vae=str(_saved(tiny_vae())))
    with pytest.raises(OvertoneError, match=r"was encoded otherwise: the VAE is \w+ there"):
        Trainer.of(other, show=False)
    shutil.copytree(vae_folder, tmp_path / "scaled")
    config = json.loads((vae_folder / "config.json").read_text()) | {"scaling_factor": 3.0}
    (tmp_path / "scaled" / "config.json").write_text(json.dumps(config))
    with pytest.raises(OvertoneError, match=r"the scaling factor is 2.5 there, 3.0 here"):
        Trainer.of(dataclasses.replace(recipe, vae=str(tmp_path / "scaled")), show=False)
    with pytest.raises(OvertoneError, match="holds latents: pass --vae"):
        Trainer.of(dataclasses.replace(recipe, vae=""), show=False)


KILLED = """
import sys
sys.path.insert(0, {tests!r})
from test_latents import encoded, pictures
import os, torch
count = 0
torch.manual_seed(0)
def audit(event, arguments):
    global count
    if event in ("os.rename", "os.link") and "latents" in str(arguments[1]):
        count += 1
        if count == {at}:
            os.kill(os.getpid(), 9)
sys.addaudithook(audit)
from helpers import tiny_vae
vae = tiny_vae()
from overtone.data.latents import encode, latents_index
import dataclasses
data = pictures()
index = dataclasses.replace(latents_index(data, vae), block=4)
found = encode(data, vae, __import__("pathlib").Path({folder!r}), index, show=False)
print(found.fetch(range(20))[0].float().sum().item())
"""


@pytest.mark.soak
def test_a_killed_encoding_leaves_whole_files(tmp_path):
    def run(folder, at):
        script = KILLED.format(tests=str(Path(__file__).parent), folder=str(folder), at=at)
        return subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, env=os.environ
        )

    reference = run(tmp_path / "latents-whole", at=0)
    assert reference.returncode == 0, reference.stderr
    for at in (1, 3, 6):
        folder = tmp_path / f"latents-{at}"
        assert run(folder, at).returncode == -signal.SIGKILL
        again = run(folder, at=0)
        assert again.stdout == reference.stdout
        # What the kill left is swept after a day; nothing of it is taken for latents.
        whole = {f.name for f in folder.iterdir() if not f.name.startswith(".writing")}
        assert whole == {f.name for f in (tmp_path / "latents-whole").iterdir()}


def test_a_dry_run_encodes_a_few_images(vae_folder):
    recipe = dataclasses.replace(LATENT, vae=str(vae_folder), encoded_images=5_000)
    task = recipe.tried().task(show=False)
    assert (len(task.data), len(task.held_out)) == (8, 1)
    pixels = dataclasses.replace(LATENT, vae="")
    assert pixels.tried() is pixels
