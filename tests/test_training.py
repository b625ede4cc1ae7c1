"""Training: what is drawn and what is measured, trackers, and networks of every kind."""

import dataclasses
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from helpers import TINY_DIFFIT, TINY_NCSN, TINY_SONG, awake
from overtone.data import ArrayData, open_data, to_unit
from overtone.denoisers import EDMDenoiser, VEPreconditioning, VPPreconditioning
from overtone.errors import OvertoneError
from overtone.networks import DiffiTUNet
from overtone.pipelines import load_pipeline
from overtone.processes import SeededNoise, VESchedule, VPCosineSchedule
from overtone.runs import find_checkpoint, read_log
from overtone.training.configs.denoising import DenoisingRecipe
from overtone.training.configs.training import Reporting, Training
from overtone.training.loop import Trainer
from overtone.training.objectives import DenoisingObjective
from overtone.training.stream import TrainingStream
from runs import TINY, OnData, changed


def test_streams_go_to_spawned_loader_processes(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    Image.new("L", (8, 8), 200).save(folder / "a.png")
    for data in (open_data("builtin:digits", 8, 1), open_data(str(folder), 8, 1)):
        stream = TrainingStream(data, DenoisingObjective(), seed=3)
        again = pickle.loads(pickle.dumps(stream))
        assert torch.equal(again.__getitems__([5])["x_0"], stream.__getitems__([5])["x_0"])
    assert len(pickle.dumps(stream)) < 2000  # the memory map goes by name


def test_half_of_the_images_are_mirrored_left_to_right_and_labels_are_dropped_to_no_class():
    """Of 400 images half are mirrored, and a quarter lose their label, within five standard
    deviations of the binomial, which one in two million exceeds."""
    generator = torch.Generator().manual_seed(1)
    x_0, labels = torch.rand(400, 1, 8, 8, generator=generator), torch.arange(400) % 3
    objective = DenoisingObjective(num_classes=3, label_dropout=0.25, mirror=True)
    batch = objective.draw(x_0, labels, SeededNoise(range(400)))
    same = (batch["x_0"] == x_0).flatten(1).all(1)
    mirrored = (batch["x_0"] == x_0.flip(3)).flatten(1).all(1)
    assert bool((same ^ mirrored).all())
    assert abs(int(mirrored.sum()) - 200) < 5 * 10
    dropped = batch["class_labels"] == 3
    assert torch.equal(batch["class_labels"][~dropped], labels[~dropped])
    assert abs(int(dropped.sum()) - 100) < 5 * 75**0.5


def test_the_loss_is_the_networks_own_error():
    """c_out^-2 |D - x_0|^2 at x = x_0 + sigma noise, written out for EDM's row, whose network is
    shown x / sqrt(sigma^2 + s_d^2) and has to return (x_0 - c_skip x) / c_out."""
    torch.manual_seed(0)
    network = awake(DiffiTUNet(TINY_DIFFIT)).eval()
    objective = DenoisingObjective(num_classes=3)
    x_0, labels = torch.rand(6, 1, 8, 8) * 2 - 1, torch.arange(6) % 3
    batch = objective.draw(x_0, labels, SeededNoise(range(6)))
    with torch.no_grad():
        loss = objective.loss(EDMDenoiser(network), batch)
        sigma = batch["sigma"][:, None, None, None]
        x, scale = x_0 + sigma * batch["noise"], (sigma**2 + 0.25).sqrt()
        out = network(x / scale, batch["sigma"].log() / 4, batch["class_labels"])
        wanted = (x_0 - 0.25 / scale**2 * x) / (0.5 * sigma / scale)
    assert torch.allclose(loss, (out - wanted).square().mean(dim=(1, 2, 3)), rtol=1e-3)


def test_held_out_loss_is_the_same_every_time():
    trainer = Trainer.of(TINY, show=False)
    assert trainer.held_out_loss() == trainer.held_out_loss()


class Numbered(DenoisingObjective):
    """An objective whose loss of an image is its first pixel, 0 to 255."""

    def draw(self, x_0, labels, source):
        return {"x_0": x_0}

    def loss(self, model, batch, average=None):
        pixel = (batch["x_0"][:, 0, 0, 0] + 1) * 127.5
        # A gradient is wanted, and it is none.
        return pixel + 0 * sum(p.sum() for p in model.parameters())


def test_the_held_out_loss_is_the_mean_over_the_held_out_images():
    pixels = torch.arange(96, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 8, 8)
    held_out = ArrayData("numbers", pixels.numpy(), np.zeros(96, dtype=np.int64), ["one"])
    recipe = changed(held_out_images=96)  # an epoch: each image once
    task = OnData(recipe, open_data("builtin:digits", 8, 1), Numbered())
    task.held_out = held_out
    assert Trainer(task, recipe).held_out_loss() == pytest.approx(95 / 2, abs=1e-3)


@pytest.mark.slow
def test_a_model_overfits_four_images(tmp_path):
    """Samples of a model trained on four images are those images: from data to pixels."""
    rng = np.random.default_rng(3)
    images = np.kron(rng.integers(0, 2, (4, 1, 4, 4)), np.ones((2, 2))).astype(np.uint8) * 255
    data = ArrayData("four", images)
    torch.manual_seed(0)
    recipe = DenoisingRecipe(
        about="",
        network=dataclasses.replace(TINY_DIFFIT, num_classes=0, widths=(32, 32)),
        training=Training(total_images=32 * 300, batch_size=32, lr=4e-3, lr_rampup_images=320,
                          lr_rampdown_images=32 * 150, ema_halflife_images=300),
        reporting=Reporting(report_images=10**6, checkpoint_images=10**6, held_out_images=64),
    )  # fmt: skip
    trainer = Trainer(OnData(recipe, data), recipe, show=False)
    trainer.run(tmp_path / "run")
    pipe = load_pipeline(find_checkpoint(tmp_path / "run"))
    batch = next(pipe.stream(range(32)))
    distances = (to_unit(batch.images)[:, None] - to_unit(torch.from_numpy(images))).abs()
    nearest = distances.mean((2, 3, 4)).min(1)
    assert float(nearest.values.median()) < 0.05
    assert len(set(nearest.indices.tolist())) == 4


@pytest.mark.slow
def test_trackers_hear_what_the_log_says(tmp_path, monkeypatch):
    """TensorBoard's own reader gives the numbers back; wandb writes its files without a network."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    reporting = dataclasses.replace(TINY.reporting, trackers=("tensorboard", "wandb"))
    recipe = dataclasses.replace(changed(total_images=64), reporting=reporting)
    run = tmp_path / "run"
    Trainer.of(recipe, show=False).run(run)
    events = EventAccumulator(str(run / "tensorboard")).Reload()
    seen = {e.step: e.value for e in events.Scalars("loss")}
    assert seen == pytest.approx({e["images"]: e["loss"] for e in read_log(run) if "loss" in e})
    assert [e.step for e in events.Images("samples")]
    assert "held_out_loss" in events.Tags()["scalars"]
    (offline,) = (run / "wandb").glob("offline-run-*")
    assert list(offline.glob("*.wandb"))
    assert list(offline.glob("files/media/images/samples_*.png"))


def test_trackers_that_are_not_installed_name_their_extra(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    reporting = dataclasses.replace(TINY.reporting, trackers=("wandb",))
    recipe = dataclasses.replace(changed(total_images=32), reporting=reporting)
    with pytest.raises(OvertoneError, match=r"pip install .* '\.\[wandb\]'"):
        Trainer.of(recipe, show=False).run(tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"preconditioning": VPPreconditioning("v"), "schedule": VPCosineSchedule(-10, 10)},
        {"preconditioning": VEPreconditioning(), "schedule": VESchedule()},
        {"network": TINY_SONG, "augmentation": 0.3},
        {"network": TINY_NCSN},
    ],
    ids=["vp", "ve", "ddpm++ with augmentation", "ncsn++ with tmsa"],
)
def test_every_denoiser_and_network_trains_and_samples(tmp_path, changes):
    if "network" in changes:
        changes["network"] = dataclasses.replace(changes["network"], num_classes=0)
    recipe = dataclasses.replace(changed(total_images=64), **changes)
    Trainer.of(recipe, show=False).run(tmp_path / "run")
    pipe = load_pipeline(find_checkpoint(tmp_path / "run"))
    assert pipe.preconditioning == recipe.preconditioning
    assert pipe.training["images seen"] == 64
    assert pipe([0], class_labels=1, steps=3)[0].size == (8, 8)
