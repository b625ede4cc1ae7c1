"""A directory of diffusers' is a model here: in every command that takes one."""

import dataclasses
import json
import re
import warnings
from functools import partial
from itertools import pairwise
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch

from helpers import DIFFUSERS_MARKS, TINY_DIFFIT, awake, tiny_vae
from overtone.cli.app import main
from overtone.denoisers import DiffusersDenoiser, NetworkDenoiser, VPPreconditioning
from overtone.errors import OvertoneError
from overtone.networks import DiffiTUNet
from overtone.networks.configs.foreign import foreign_config
from overtone.pipelines import Pipeline, load_pipeline
from overtone.processes import GaussianProcess, RelayProcess, SeededNoise
from overtone.runs import find_checkpoint
from overtone.samplers import Sampler, SchedulerSampler
from overtone.training import Training, find_recipe, train

pytestmark = DIFFUSERS_MARKS

FLOW = diffusers.FlowMatchEulerDiscreteScheduler


def a_unet(size=8, channels=1, **settings):
    torch.manual_seed(0)
    model = diffusers.UNet2DModel(
        sample_size=size, in_channels=channels, out_channels=channels, layers_per_block=1,
        block_out_channels=(8, 8), down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2, norm_num_groups=4, **settings,
    )  # fmt: skip
    return awake(model).eval()


def a_dit(classes=3):
    torch.manual_seed(0)
    model = diffusers.DiTTransformer2DModel(
        sample_size=8, in_channels=4, out_channels=4, patch_size=2, num_layers=2,
        num_attention_heads=2, attention_head_dim=8, norm_num_groups=2, num_embeds_ada_norm=classes,
    )  # fmt: skip
    return awake(model).eval()


def saved(folder, scheduler=None, unet=None, **others):
    """A pipeline as diffusers saves it: DDPMPipeline takes whatever scheduler there is."""
    pipe = diffusers.DDPMPipeline(unet or a_unet(), scheduler or diffusers.DDPMScheduler())
    pipe.save_pretrained(folder, **others)
    return folder


SCHEDULERS = {
    "ddpm": diffusers.DDPMScheduler,
    "v": partial(diffusers.DDIMScheduler, prediction_type="v_prediction"),
    "edm": diffusers.EDMEulerScheduler,
    "score": partial(diffusers.ScoreSdeVeScheduler, sigma_min=0.02, sigma_max=50.0),
    "flow": FLOW,
}
RANGES = {
    "ddpm": ("vp", 0.01, 157.4),
    "v": ("vp", 0.01, 157.4),
    "edm": ("edm", 0.002, 80.0),
    "score": ("score", 0.02, 50.0),
    "flow": ("flow", 0.001, 999.0),
}


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_each_kind_opens_under_its_row_on_its_own_noise_levels(tmp_path, kind):
    pipe = load_pipeline(saved(tmp_path / "model", SCHEDULERS[kind]()))
    row, low, high = RANGES[kind]
    assert pipe.preconditioning.kind == row
    assert pipe.sampler.sigma_start == pytest.approx(high, rel=1e-3)
    assert pipe.sampler.sigmas[-2] == pytest.approx(low, rel=1e-3)
    direct = DiffusersDenoiser(a_unet(), SCHEDULERS[kind]())
    x = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        assert torch.allclose(pipe.denoiser(x, 0.7).x_0, direct(x, 0.7).x_0, atol=1e-5)
    images = pipe(range(3), steps=3)
    pipe.save_pretrained(tmp_path / "ours")
    again = load_pipeline(tmp_path / "ours")(range(3), steps=3)
    assert all(np.array_equal(a, b) for a, b in zip(images, again, strict=True))


@pytest.mark.slow
def test_every_command_takes_one(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("OVERTONE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    model = str(saved(tmp_path / "model"))
    flow = str(saved(tmp_path / "flow", FLOW()))
    main(["sample", model, "--seeds", "0-3", "--steps", "2", "--out", "a.png"])
    main(["sample", model, "--seeds", "0-3", "--sampler.num-steps", "2", "--sampler.estimate",
          "ddim", "--out", "b.png"])  # fmt: skip
    main(["sample", flow, "--seeds", "0-3", "--steps", "2", "--guide", flow,
          "--guidance-scale", "2", "--out", "c.png"])  # fmt: skip
    main(["sample", flow, "--seeds", "0-3", "--steps", "3", "--scheduler",
          "FlowMatchEulerDiscreteScheduler", "--out", "d.png"])  # fmt: skip
    for name in "abcd":
        assert (tmp_path / f"{name}.png").stat().st_size > 50
    capsys.readouterr()
    main(["info", model, "--json"])
    found = json.loads(capsys.readouterr().out)
    assert (found["kind"], found["class"]) == ("diffusers pipeline", "DDPMPipeline")
    assert found["unet"]["kind"] == "UNet2DModel"
    assert found["unet"]["values"] == sum(p.numel() for p in a_unet().parameters())
    assert found["scheduler"]["num_train_timesteps"] == 1000
    main(["evaluate", model, "--data", "builtin:digits", "--seeds", "0-49", "--steps", "2",
          "--real-images", "100"])  # fmt: skip
    report = json.loads(capsys.readouterr().out)
    assert report["made_with"]["preconditioning"]["kind"] == "vp"
    main(["analyze", "spectrum", model, "--seeds", "0-1", "--levels", "2"])
    main(["analyze", "trajectory", flow, "--seeds", "0-1", "--times", "4"])
    assert (tmp_path / "trajectory.png").exists()
    main(["merge", model, model, "--boundaries", "1", "--out", "both"])
    assert len(load_pipeline("both")([1], steps=2)) == 1
    solved = ["dsno-digits", "--teacher", flow, "--steps", "8", "--count", "16", "--held-out", "0",
              "--guidance-scale", "1"]  # fmt: skip
    main(["distill", "collect", *solved, "--out", "kept"])
    main(["distill", "train", *solved, "--data", "kept", "--out", "student", "--total-images", "16",
          "--batch-size", "8", "--lr-rampup-images", "0"])  # fmt: skip
    assert len(load_pipeline(find_checkpoint(Path("student")))([1])) == 1


def test_one_is_a_relays_first_stage(tmp_path):
    first = load_pipeline(saved(tmp_path / "model", FLOW(), a_unet(4)))
    network = DiffiTUNet(TINY_DIFFIT.__class__(**{**vars(TINY_DIFFIT), "num_classes": 0}))
    second = Pipeline(awake(network), Sampler(2, sigma_max=0.9), process=RelayProcess(patch=2))
    second.first = first
    assert len(second([1, 2])) == 2
    second.save_pretrained(tmp_path / "relay")
    assert load_pipeline(tmp_path / "relay").first.preconditioning.kind == "flow"


def a_dit_pipeline(folder, scheduler=None, **settings):
    pipe = diffusers.DiTPipeline(
        a_dit(), tiny_vae().model, scheduler or diffusers.DDIMScheduler(), **settings
    )
    pipe.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("scheduler", [diffusers.DDIMScheduler, FLOW])
def test_a_dit_with_a_vae_and_names_of_classes(tmp_path, scheduler):
    names = {"0": "tench, Tinca tinca", "1": "crane, bird", "2": "crane, machine"}
    folder = a_dit_pipeline(tmp_path / "dit", scheduler())
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"id2label": names}))
    pipe = load_pipeline(folder)
    assert pipe.class_names == ("tench", "crane, bird", "crane, machine")
    assert (pipe.resolution, pipe.channels, pipe.num_classes) == (16, 3, 3)
    images = pipe([1, 2], class_labels=["tench", "crane, bird"], guidance_scale=2.0, steps=2)
    assert images[0].size == (16, 16)
    pipe.save_pretrained(tmp_path / "ours")
    assert load_pipeline(tmp_path / "ours").class_names == pipe.class_names


def test_half_precision_is_read_as_float32(tmp_path):
    folder = saved(tmp_path / "half", unet=a_unet().half())
    variant = saved(tmp_path / "variant", unet=a_unet().half(), variant="fp16")
    for name in (folder, variant):
        pipe = load_pipeline(name)
        assert next(pipe.network.parameters()).dtype == torch.float32
        wanted = a_unet().half().float().state_dict()
        assert all(
            torch.equal(wanted[key], value)
            for key, value in pipe.network.model.state_dict().items()
        )
        assert len(pipe([1], steps=2)) == 1


@pytest.mark.parametrize("variant", ["fp16", "bf16", None])
@pytest.mark.parametrize("sharded", [False, True])
def test_variants_and_shards_of_every_part(tmp_path, capsys, variant, sharded):
    pipe = diffusers.DiTPipeline(a_dit(), tiny_vae().model, diffusers.DDIMScheduler())
    size = {"max_shard_size": "8KB"} if sharded else {}
    pipe.save_pretrained(tmp_path / "dit", variant=variant, **size)
    files = list((tmp_path / "dit" / "transformer").glob("*.safetensors"))
    assert (len(files) > 1) == sharded
    opened = load_pipeline(tmp_path / "dit")
    assert len(opened([1], class_labels=1, steps=1)) == 1
    main(["info", str(tmp_path / "dit"), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["transformer"]["values"] == sum(p.numel() for p in a_dit().parameters())


def test_networks_that_are_no_images_or_have_no_numbered_classes(tmp_path):
    for changes, message in (
        ({"class_embed_type": "timestep"}, "embeds classes by 'timestep'"),
        ({"class_embed_type": "identity"}, "embeds classes by 'identity'"),
    ):
        with pytest.raises(OvertoneError, match=message):
            load_pipeline(saved(tmp_path / message[-5:-1], unet=a_unet(**changes)))
    for size in (15, 1, 0, -16, True, 16.0, (8, 16)):
        folder = saved(tmp_path / f"size {size}")
        file = folder / "unet" / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"sample_size": size}))
        with pytest.raises(OvertoneError, match=r"sample_size|the network (fails|makes)"):
            load_pipeline(folder)
    with pytest.raises(OvertoneError, match="makes 4 channels, which are no grey or RGB images"):
        load_pipeline(saved(tmp_path / "four", unet=a_unet(channels=4)))


def test_a_teacher_that_can_be_given_no_temporal_layers_is_said_first(tmp_path):
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8, 8), norm_num_groups=4,
        down_block_types=("SkipDownBlock2D",) * 2, up_block_types=("SkipUpBlock2D",) * 2,
        layers_per_block=1,
    )  # fmt: skip
    folder = str(saved(tmp_path / "skip", unet=unet))
    with pytest.raises(SystemExit):
        main(["distill", "collect", "dsno-digits", "--teacher", folder, "--guidance-scale", "1",
              "--out", str(tmp_path / "kept")])  # fmt: skip
    assert not (tmp_path / "kept").exists()


def edited(folder, **changes):
    file = folder / "model_index.json"
    index = json.loads(file.read_text())
    file.write_text(json.dumps({k: v for k, v in (index | changes).items() if v is not None}))
    return folder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text_encoder": ["transformers", "CLIPTextModel"], "_class_name": "StableDiffusion"},
         r"is a StableDiffusion, which needs a text encoder \(CLIPTextModel\)"),
        ({"tokenizer": ["transformers", "CLIPTokenizer"]}, "needs a text encoder"),
        ({"mel": ["diffusers", "Mel"]}, "a part that is not known here: mel"),
        ({"unet": ["my_unet", "MyUNet"]}, r"not known here: unet \(my_unet, MyUNet\)"),
        ({"unet": ["diffusers", "UNet2DConditionModel"]}, "UNet2DConditionModel: a network of"),
        ({"unet": None}, "a network of these and a scheduler are needed"),
        ({"scheduler": None}, "a network of these and a scheduler are needed"),
        ({"scheduler": ["diffusers", "UNet2DModel"]}, "has no scheduler 'UNet2DModel'"),
        ({"scheduler": ["diffusers", "NoneSuchScheduler"]}, "no scheduler 'NoneSuchScheduler'"),
        ({"scheduler": ["diffusers", "FlowMatchHeunDiscreteScheduler"]}, ""),
        ({"vae": ["diffusers", "AutoencoderKL"]}, "vae"),
        ({"scheduler": ["diffusers", "CMStochasticIterativeScheduler"]}, "CMStochasticIterative"),
    ],
)  # fmt: skip
def test_pipelines_that_are_none_here_are_refused_by_name(tmp_path, changes, message):
    folder = edited(saved(tmp_path / "model"), **changes)
    if not message:
        assert load_pipeline(folder).preconditioning.kind == "flow"
        return
    with pytest.raises(OvertoneError, match=message):
        load_pipeline(folder)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("unet/own.py", "raise SystemExit", r"holds code \(own.py\)"),
        ("model_index.json", "[]", "model_index.json"),
        ("model_index.json", "{", "model_index.json"),
        ("unet/config.json", "{}", "unet"),
        ("unet/diffusion_pytorch_model.safetensors", "nothing", "is damaged or was cut short"),
        ("scheduler/scheduler_config.json", '{"num_train_timesteps": "many"}', "scheduler"),
        ("scheduler/scheduler_config.json", '{"num_train_timesteps": 0}', "no diffus"),
        (
            "scheduler/scheduler_config.json",
            '{"trained_betas": [0.1, 0.2, -0.1]}',
            "no diffusion's",
        ),
        ("scheduler/scheduler_config.json", '{"beta_end": 2.0}', "no diffus"),
        ("scheduler/scheduler_config.json", '{"trained_betas": [0.1, 1.0]}', "zero terminal SNR"),
    ],
)
def test_damaged_directories_in_one_line(tmp_path, file, text, message):
    folder = saved(tmp_path / "model")
    (folder / file).write_text(text)
    with pytest.raises(OvertoneError, match=message) as refused:
        load_pipeline(folder)
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        (diffusers.EulerDiscreteScheduler(
            timestep_type="continuous", prediction_type="v_prediction"), "continuous times"),
        (diffusers.DPMSolverMultistepScheduler(use_flow_sigmas=True), "use_flow_sigmas"),
        (diffusers.UniPCMultistepScheduler(use_flow_sigmas=True), "use_flow_sigmas"),
        (FLOW(use_dynamic_shifting=True), "use_dynamic_shifting"),
        (FLOW(invert_sigmas=True), "invert_sigmas"),
        (FLOW(shift=-1.0), "a number above 0"),
        (diffusers.EDMEulerScheduler(sigma_data=0.0), "sigma_data must be above 0"),
        (diffusers.EDMEulerScheduler(sigma_min=100.0), "sigma_min <= sigma_max does not hold"),
    ],
)  # fmt: skip
def test_schedulers_that_would_be_misread_are_refused_and_info_says_so(
    tmp_path, capsys, scheduler, message
):
    folder = saved(tmp_path / "model", scheduler)
    with pytest.raises(OvertoneError, match=message):
        load_pipeline(folder)
    main(["info", str(folder), "--json"])
    assert re.search(message, json.loads(capsys.readouterr().out)["not opened here"])


def test_a_vae_without_a_scaling_factor_has_that_of_its_class(tmp_path):
    vae = tiny_vae().model
    pipe = diffusers.DiTPipeline(a_dit(), vae, diffusers.DDIMScheduler())
    pipe.save_pretrained(tmp_path / "dit")
    file = tmp_path / "dit" / "vae" / "config.json"
    config = json.loads(file.read_text())
    del config["scaling_factor"]
    file.write_text(json.dumps(config))
    assert load_pipeline(tmp_path / "dit").vae.scaling_factor == 0.18215


def test_a_student_of_a_network_that_ends_in_all_times_draws_images(tmp_path):
    """Of a U-Net with Fourier features, which divides its output by every time."""
    unet = a_unet(time_embedding_type="fourier")
    scheduler = diffusers.ScoreSdeVeScheduler(sigma_min=0.02, sigma_max=50.0)
    recipe = dataclasses.replace(
        find_recipe("dsno-digits"), teacher=str(saved(tmp_path / "score", scheduler, unet)),
        guidance_scale=None, count=16, held_out=0, steps=4, num_times=2,
        training=Training(total_images=16, batch_size=8, lr_rampup_images=0, precision="fp32"),
    )  # fmt: skip
    student = train(recipe, tmp_path / "student", show=False)
    images = student([3], return_trajectory=True)[0]
    assert np.array_equal(images[-1], student([3])[0])


def test_weights_in_several_variants_or_with_strangers(tmp_path):
    folder = saved(tmp_path / "model")
    whole = folder / "unet" / "diffusion_pytorch_model.safetensors"
    half = folder / "unet" / "diffusion_pytorch_model.fp16.safetensors"
    whole.rename(half)
    (folder / "unet" / "diffusion_pytorch_model_old.safetensors").write_bytes(b"")
    assert load_pipeline(folder)([1], steps=1)
    (folder / "unet" / "diffusion_pytorch_model.ema.safetensors").write_bytes(half.read_bytes())
    with pytest.raises(OvertoneError, match="in 2 variants, ema, fp16"):
        load_pipeline(folder)
    with pytest.raises(OvertoneError, match="a SchedulerSampler takes a scheduler"):
        SchedulerSampler("DDIMScheduler")


def test_a_network_of_diffusers_in_a_recipe_gets_room_for_no_class(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (16, 1, 8, 8), dtype=np.uint8)
    recipe = dataclasses.replace(
        find_recipe("diffit-digits"), data="", label_dropout=0.9,
        network=foreign_config(a_unet(num_class_embeds=2)),
        training=Training(total_images=32, batch_size=16, lr_rampup_images=0, precision="fp32"),
    )  # fmt: skip
    data = pixels, [n % 2 for n in range(16)]
    pipe = train(recipe, tmp_path / "run", data=data, show=False)
    assert pipe.network.config.model["num_class_embeds"] == 3
    assert len(pipe([0, 1], guidance_scale=2.0, steps=2)) == 2
    wrong = dataclasses.replace(recipe, network=foreign_config(a_unet(num_class_embeds=5)))
    with pytest.raises(OvertoneError, match="has to be made with as many"):
        train(wrong, tmp_path / "other", data=data, show=False)
    unsized = dataclasses.replace(recipe, network=foreign_config(a_unet(size=None)))
    with pytest.raises(OvertoneError, match="resolution is not set"):
        train(unsized, tmp_path / "other", data=data, show=False)


@pytest.mark.parametrize(
    "settings",
    [{}, {"shift": 3.0}, {"use_karras_sigmas": True}, {"shift_terminal": 0.1}],
    ids=str,
)
@pytest.mark.parametrize("steps", [1, 7, 20])
def test_flow_matching_is_diffusers_own_loop(settings, steps):
    model, scheduler = a_unet(), FLOW(**settings)
    sampler = SchedulerSampler(scheduler, steps)
    ours = sampled(DiffusersDenoiser(model, scheduler), sampler)
    theirs = FLOW(**settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # one step to shift_terminal: it is 0 / 0
        theirs.set_timesteps(steps)
    # The same noise levels, but for the first, which is finite: flow time 0.999.
    if "shift_terminal" not in settings or steps > 1:
        assert float(theirs.sigmas[0]) == pytest.approx(1.0)
    theirs.sigmas[0], theirs.timesteps[0] = 0.999, 999.0
    times = [sigma / (1 + sigma) for sigma in sampler.sigmas]
    assert times == pytest.approx(theirs.sigmas.tolist(), abs=1e-7)
    x = 0.999 * SeededNoise(SEEDS).normal(torch.empty(len(SEEDS), 1, 8, 8))
    with torch.no_grad():
        for t in theirs.timesteps:
            x = theirs.step(model(x, t.expand(len(x))).sample, t, x).prev_sample
    assert float((ours - x).abs().max() / x.abs().max()) < 2e-4


def test_flow_matching_on_our_denoisers_begins_at_the_noise_level_that_is_stated():
    network = awake(DiffiTUNet(TINY_DIFFIT))
    pipe = Pipeline(network, Sampler(4))
    pipe.sampler = SchedulerSampler(FLOW(), 6, sigma_max=80.0)
    assert pipe.sampler.sigma_start == pytest.approx(80.0, rel=1e-4)
    assert pipe.made_with()["sampler"]["sigma_max"] == pytest.approx(80.0, rel=1e-4)
    assert len(pipe([1, 2])) == 2
    denoiser = NetworkDenoiser(network, VPPreconditioning())
    euler = Sampler(6, levels=SchedulerSampler(FLOW(), 6, 80.0).sigmas[:-1], estimate="single")
    ours = sampled(denoiser, SchedulerSampler(FLOW(), 6, 80.0))
    assert float((ours - sampled(denoiser, euler)).abs().max() / ours.abs().max()) < 2e-4
    for wrong in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=r"sigma_max must be (above 0|finite), not"):
            SchedulerSampler(FLOW(), 6, wrong)
    with pytest.raises(ValueError, match="sigma_max is a finite noise level"):
        SchedulerSampler(diffusers.DDIMScheduler(), 6, 80.0)
    # Where several of diffusers' levels lie above it, all are spread below.
    many = SchedulerSampler(FLOW(), 500, 14.6).sigmas
    assert many[0] == pytest.approx(14.6, rel=1e-4)
    assert all(low < high for high, low in pairwise(many))


SEEDS = [3, 8, 21]


def sampled(denoiser, sampler):
    source = SeededNoise(SEEDS)
    start = sampler.sigma_start * source.normal(torch.empty(len(SEEDS), 1, 8, 8))
    with torch.no_grad():
        return sampler(denoiser, GaussianProcess(), start, source)
