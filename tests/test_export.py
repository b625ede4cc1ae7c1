"""Exported models: files agree with networks, and scripts with pipelines."""

import dataclasses
import importlib.util
import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from helpers import (
    DIFFUSERS_MARKS,
    TINY_ADM,
    TINY_DIFFIT,
    TINY_DSNO,
    TINY_IUNET,
    TINY_NCSN,
    TINY_SONG,
    TINY_TRANSFORMER,
    awake,
    tiny_vae,
)
from overtone.cli.app import main
from overtone.denoisers import GuidanceSettings
from overtone.errors import OvertoneError
from overtone.networks import temporalize
from overtone.networks.network import build
from overtone.pipelines import DSNOPipeline, MEMEPipeline, Pipeline, RelayPipeline
from overtone.pipelines.budgets import Budget, FittedSampler
from overtone.pipelines.export import _Operator, export
from overtone.processes import QuantileSchedule, RelayProcess, SeededNoise
from overtone.samplers import OperatorSampler, Sampler

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # of torch's exporters and onnx, about themselves
    *DIFFUSERS_MARKS,
]

NETWORKS = {
    "DiffiT": TINY_DIFFIT,
    "DiffiT, separate": dataclasses.replace(TINY_DIFFIT, time_in="separate"),
    "DiffiT with a plain ViT": dataclasses.replace(
        TINY_DIFFIT, encoder="vit", decoder="aggregation"
    ),
    "ADM": TINY_ADM,
    "iU-Net": TINY_IUNET,
    "DDPM++": TINY_SONG,
    "NCSN++ with TMSA": TINY_NCSN,
    "without classes": dataclasses.replace(TINY_ADM, num_classes=0),
    "a rectangle": dataclasses.replace(TINY_DIFFIT, resolution=(8, 16)),
}


def pixels_of(config, **parts):
    torch.manual_seed(0)
    network = awake(build(config))
    sampler = Sampler(num_steps=5, estimate="two_step")
    return Pipeline(network, sampler, precision="fp32", **parts)


def latents(vae=True):
    torch.manual_seed(0)
    network = awake(build(dataclasses.replace(TINY_TRANSFORMER, learned_variance=False)))
    return Pipeline(network, Sampler(num_steps=3, estimate="two_step"), precision="fp32",
                    vae=tiny_vae() if vae else None, image_resolution=16)  # fmt: skip


def opened(folder, name="sample"):
    """The script in an exported directory, as a module."""
    sys.path.insert(0, str(folder))
    try:
        for loaded in ("sample", "upscale"):
            sys.modules.pop(loaded, None)
        spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.remove(str(folder))


def ran(file, *given):
    import onnxruntime

    if file.suffix == ".pt2":
        return torch.export.load(file).module()(*given).detach()
    session = onnxruntime.InferenceSession(file)
    names = [i.name for i in session.get_inputs()]
    feed = {n: g.numpy() for n, g in zip(names, given, strict=True)}
    return torch.from_numpy(session.run(None, feed)[0])


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_agrees_with_its_files(name, tmp_path):
    pipe = pixels_of(NETWORKS[name])
    export(pipe, tmp_path / "it")
    config = pipe.network.config
    size = next(iter(pipe.path([0]))).x.shape[1:]
    for batch in (1, 4):
        x, time = torch.randn(batch, *size), torch.randn(batch)
        labels = (torch.arange(batch) % 4,) if config.num_classes else ()  # the null class, too
        with torch.no_grad():
            wanted = pipe.network.eval()(x, time, *(labels or (None,)))
        for suffix in ("onnx", "pt2"):
            found = ran(tmp_path / "it" / f"network.{suffix}", x, time, *labels)
            assert (found - wanted).abs().max() < 1e-4 * wanted.abs().max(), suffix


@pytest.mark.parametrize("guidance", [GuidanceSettings(), GuidanceSettings(2.0, (0.05, 20.0))])
@pytest.mark.parametrize("formats", [("onnx",), ("torch",)])
def test_the_script_makes_the_pipelines_images(guidance, formats, tmp_path):
    """From the same noise: within 1e-4 of values in [-1, 1], which no picture shows."""
    pipe = pixels_of(TINY_DIFFIT, guidance=guidance)
    export(pipe, tmp_path / "it", formats)
    seeds, labels = [3, 4], np.array([2, 0])
    noise = SeededNoise(seeds).normal(torch.empty(2, 1, 8, 8)).numpy()
    made = opened(tmp_path / "it").sample(noise, labels)
    (*_, last) = pipe.path(seeds, labels.tolist())
    assert np.abs(made - last.x.numpy()).max() < 1e-4


FITTED = Sampler(
    num_steps=4,
    levels=(60.0, 7.0, 0.9, 0.1),
    estimate="weighted",
    earlier=(0.3, -0.4, 0.2, -0.1, 0.25, 0.05),
    epsilon_scale=1.01,
)


@pytest.mark.parametrize(
    "sampler", [FITTED, Sampler(5, estimate="three_step")], ids=["fitted", "3"]
)
def test_the_script_takes_every_multistep_estimate(sampler, tmp_path):
    pipe = pixels_of(TINY_DIFFIT)
    pipe.sampler = sampler
    export(pipe, tmp_path / "it", ("torch",))
    noise = SeededNoise([3, 4]).normal(torch.empty(2, 1, 8, 8)).numpy()
    made = opened(tmp_path / "it").sample(noise, np.array([2, 0]))
    (*_, last) = pipe.path([3, 4], [2, 0])
    assert np.abs(made - last.x.numpy()).max() < 1e-4 * max(1, float(last.x.abs().max()))


def test_the_sampler_that_was_fitted_for_a_number_of_evaluations_is_exported(tmp_path):
    pipe = pixels_of(TINY_DIFFIT)
    pipe.budgets = (Budget(4, FittedSampler.of(pipe, FITTED), 0.1, 0.2),)
    export(pipe, tmp_path / "it", ("torch",), evaluations=4)
    steps = json.loads((tmp_path / "it" / "model.json").read_text())["steps"]
    assert [step["sigma"] for step in steps] == list(FITTED.levels)
    assert steps[2]["estimate"] == pytest.approx([1 - (-0.4 + 0.2), -0.4, 0.2])
    assert pipe.sampler.num_steps == 5  # the model's own stays


def test_a_script_without_overtone(tmp_path):
    export(pixels_of(TINY_ADM, class_names=("a", "b", "c")), tmp_path / "it", ("onnx",))
    watch = "import runpy, sys; sys.argv = ['sample.py', '7', '2'];"
    watch += " runpy.run_path('sample.py', run_name='__main__');"
    watch += " assert not {'overtone', 'torch', 'diffusers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", watch], cwd=tmp_path / "it", check=True)
    with Image.open(tmp_path / "it" / "sample.png") as picture:
        assert picture.size == (8, 8)
    text = (tmp_path / "it" / "sample.py").read_text()
    assert len([line for line in text.splitlines() if line.strip()]) <= 40
    assert "import overtone" not in text
    assert json.loads((tmp_path / "it" / "model.json").read_text())["class_names"] == [
        "a",
        "b",
        "c",
    ]


def test_experts_have_a_file_each(tmp_path):
    torch.manual_seed(0)
    networks = [awake(build(TINY_IUNET)), awake(awake(build(TINY_ADM)))]
    from overtone.networks import Experts

    pipe = MEMEPipeline(Experts(networks, (0.5,)), Sampler(num_steps=6, estimate="two_step"),
                        precision="fp32")  # fmt: skip
    export(pipe, tmp_path / "it", ("onnx",))
    noise = SeededNoise([1]).normal(torch.empty(1, 1, 8, 8)).numpy()
    made = opened(tmp_path / "it").sample(noise, np.array([1]))
    (*_, last) = pipe.path([1], [1])
    assert np.abs(made - last.x.numpy()).max() < 1e-4
    used = {s["network"] for s in json.loads((tmp_path / "it" / "model.json").read_text())["steps"]}
    assert used == {"network-1.onnx", "network-2.onnx"}


def test_latents_are_decoded(tmp_path):
    pipe = latents()
    export(pipe, tmp_path / "it", ("onnx",))
    noise = SeededNoise([1]).normal(torch.empty(1, 4, 8, 8)).numpy()
    made = opened(tmp_path / "it").sample(noise, np.array([1]))
    (*_, last) = pipe.path([1], [1])
    assert np.abs(made - pipe.decoded(last.x).numpy()).max() < 1e-3 * np.abs(made).max()


@pytest.mark.parametrize("kind", ["a student", "DSNO's network"])
def test_an_operator_is_one_file(kind, tmp_path):
    torch.manual_seed(0)
    network = temporalize(awake(build(TINY_ADM)), 2) if kind == "a student" else build(TINY_DSNO)
    pipe = DSNOPipeline(awake(network), OperatorSampler((80.0, 1.0, 0.0)), precision="fp32")
    export(pipe, tmp_path / "it")
    noise = SeededNoise([1, 2, 3, 4]).normal(torch.empty(4, 1, 8, 8))
    labels = torch.tensor([0, 1, 2, 0])
    (*_, last) = pipe.path([1, 2, 3, 4], labels.tolist())
    for suffix in ("onnx", "pt2"):
        made = ran(tmp_path / "it" / f"operator.{suffix}", noise, labels)
        assert (made - last.x).abs().max() < 1e-4 * max(1, float(last.x.abs().max()))
    script = opened(tmp_path / "it").sample(noise.numpy(), labels.numpy())
    assert np.abs(script - last.x.numpy()).max() < 1e-4 * max(1, float(last.x.abs().max()))
    assert _Operator(pipe).levels == (80.0, 1.0, 0.0)
    export(pipe, tmp_path / "all", ("onnx",), whole=True)
    states = pipe.trajectory([1, 2, 3, 4], labels.tolist())
    made = ran(tmp_path / "all" / "operator.onnx", noise, labels)
    assert made.shape == states.shape == (4, 2, 1, 8, 8)
    assert (made - states).abs().max() < 1e-4 * max(1, float(states.abs().max()))
    script = opened(tmp_path / "all").sample(noise.numpy(), labels.numpy())
    assert np.abs(script - last.x.numpy()).max() < 1e-4 * max(1, float(last.x.abs().max()))
    with pytest.raises(OvertoneError, match="only an operator"):
        export(pixels_of(TINY_DIFFIT), tmp_path / "none", ("onnx",), whole=True)


def test_a_relay_enlarges_by_its_script(tmp_path):
    torch.manual_seed(0)
    schedule = QuantileSchedule(prob_length=0.93)
    config = dataclasses.replace(TINY_ADM, resolution=16, attention_resolutions=(8,))
    pipe = RelayPipeline(
        awake(build(config)),
        Sampler(num_steps=4, sigma_min=0.01, sigma_max=0.9, estimate="two_step"),
        process=RelayProcess(patch=2, schedule=schedule),
        precision="fp32",
    )
    pipe.first = pixels_of(TINY_DIFFIT)
    export(pipe, tmp_path / "it", ("onnx",))
    low = torch.rand(1, 1, 8, 8) * 2 - 1
    like = torch.empty(1, 1, 16, 16)
    noise = pipe.process.noise(like, pipe.start.source([5], 16))
    script = opened(tmp_path / "it", "upscale")
    made = script.upscale(low.numpy(), noise.numpy(), np.array([1]))
    own = pipe.upscale(low, class_labels=1, seeds=[5])[0]
    shown = np.clip((made[0, 0] + 1) * 127.5, 0, 255).round().astype(int)
    assert np.abs(shown - np.asarray(own, int)).max() <= 1
    # The noise that the script draws has the process's covariance: 1, and its neighbours'.
    drawn = np.concatenate([script.noise_of(seed) for seed in range(400)])
    theirs = pipe.process.noise(torch.empty(400, 1, 16, 16), SeededNoise(range(400))).numpy()
    for shift in ((0, 0), (0, 1), (1, 1), (0, 2)):
        moments = [float((d * np.roll(d, shift, (2, 3))).mean()) for d in (drawn, theirs)]
        assert abs(moments[0] - moments[1]) < 6 / np.sqrt(400 * 256)
    assert (tmp_path / "it" / "first" / "network.onnx").exists()
    done = subprocess.run(
        [sys.executable, "sample.py"], cwd=tmp_path / "it", capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "this model enlarges: python upscale.py PICTURE" in done.stderr
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "it" / "a.png")
    subprocess.run(
        [sys.executable, "upscale.py", "a.png", "3", "1"], cwd=tmp_path / "it", check=True
    )
    with Image.open(tmp_path / "it" / "upscaled.png") as picture:
        assert picture.size == (16, 16)


def test_a_diffusers_network(tmp_path):
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    from overtone import load_pipeline

    torch.manual_seed(6)
    unet = UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8, 8),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), norm_num_groups=4,
        up_block_types=("AttnUpBlock2D", "UpBlock2D"), attention_head_dim=4, layers_per_block=1,
    )  # fmt: skip
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(tmp_path / "ddpm")
    pipe = load_pipeline(tmp_path / "ddpm")
    pipe.precision = "fp32"
    export(pipe, tmp_path / "it", ("onnx",), steps=6)
    pipe.sampler = pipe.sampler.as_ode("two_step", 6)
    noise = SeededNoise([1]).normal(torch.empty(1, 1, 8, 8)).numpy()
    made = opened(tmp_path / "it").sample(noise)
    (*_, last) = pipe.path([1])
    assert np.abs(made - last.x.numpy()).max() < 1e-3


def test_what_can_not_be_exported_is_told(tmp_path, monkeypatch):
    class Odd(torch.nn.Module):
        def forward(self, x, time):
            return x * float(x.sum())  # which no graph holds

    from overtone.pipelines import export as module

    with pytest.raises(
        OvertoneError, match=r"the odd of this model can't be written by torch\.export"
    ):
        module._write_program(Odd(), (torch.zeros(3, 2), torch.zeros(3)), tmp_path / "odd",
                              ("torch",), print)  # fmt: skip
    pipe = pixels_of(TINY_ADM)
    pipe._process = SimpleNamespace(kind="Odd", upscale=1, script=None)
    with pytest.raises(OvertoneError, match="know two processes, and not a Odd:"):
        export(pipe, tmp_path / "it", ("torch",))
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(OvertoneError, match=r"ONNX files need the extra export"):
        export(pixels_of(TINY_ADM), tmp_path / "it", ("onnx",))
    assert not (tmp_path / "it").exists()


def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    pixels_of(TINY_ADM).save_pretrained("model")
    main(["export", "model", "--out", "it", "--formats", "torch", "--steps", "3"])
    assert "network.pt2: " in capsys.readouterr().err
    subprocess.run([sys.executable, "sample.py"], cwd=tmp_path / "it", check=True)
    for arguments, message in (
        (["--out", "it"], "is there already: choose another --out"),
        (["--out", "new", "--formats", "torch", "torch"], "--formats names each format once"),
    ):
        with pytest.raises(SystemExit):
            main(["export", "model", *arguments])
        assert message in capsys.readouterr().err
