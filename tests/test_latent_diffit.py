"""The latent DiffiT as a pipeline, and the conversion of its published weights."""

import dataclasses
import json

import pytest
import torch

from helpers import DIFFUSERS_MARKS, TINY_TRANSFORMER, Golden, awake, deviation, tiny_vae
from latent_diffit import published
from overtone.cli.app import main
from overtone.convert import dit_pipeline, from_published
from overtone.denoisers import ADM_DIFFUSION, GuidanceSettings
from overtone.errors import OvertoneError
from overtone.networks import DiffiTTransformer
from overtone.pipelines import LatentDiffiTPipeline, load_pipeline
from overtone.samplers import AncestralSampler, SchedulerSampler, scheduler_of
from overtone.storage import save_tensors

pytestmark = DIFFUSERS_MARKS


# Pipelines.


@pytest.fixture
def pipe():
    return LatentDiffiTPipeline(
        awake(DiffiTTransformer(TINY_TRANSFORMER)),
        AncestralSampler(num_steps=5),
        preconditioning=ADM_DIFFUSION,
        guidance=GuidanceSettings(scale=20.0, channels=(0, 1, 2), power=4.0),
        vae=tiny_vae(),
        precision="fp32",
    )


def test_a_latent_pipeline_is_saved_whole(pipe, tmp_path):
    images = pipe(seeds=range(3), class_labels=1)
    assert images[0].size == (16, 16)
    pipe.save_pretrained(tmp_path / "model")
    again = load_pipeline(tmp_path / "model")
    again.precision = "fp32"
    assert isinstance(again, LatentDiffiTPipeline)
    assert (again.guidance, again.resolution, again.channels) == (pipe.guidance, 16, 3)
    for a, b in zip(images, again(seeds=range(3), class_labels=1), strict=True):
        assert a.tobytes() == b.tobytes()
    *_, guided = again.path([0], 1)
    *_, asked = again.path([0], 1, guidance_scale=20.0)
    *_, unguided = again.path([0], 1, guidance_scale=1.0)
    assert torch.equal(guided.x, asked.x)
    assert (guided.x - unguided.x).abs().max() > 1e-4


def test_images_do_not_depend_on_the_batch(pipe):
    together = torch.cat([b.images for b in pipe.stream(range(5), batch_size=5)])
    apart = torch.cat([b.images for b in pipe.stream(range(5), batch_size=2)])
    assert int((together.int() - apart.int()).abs().max()) <= 1


@pytest.mark.parametrize(
    "name", ["DDIMScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler"]
)
def test_schedulers_sample_it(pipe, name):
    pipe.sampler = SchedulerSampler(scheduler_of(name, pipe.preconditioning), 6)
    images = torch.cat([b.images for b in pipe.stream(range(2))])
    assert images.shape == (2, 3, 16, 16)
    assert images.float().std() > 1


def test_the_transformer_runs_in_diffusers_own_pipeline():
    from diffusers import DDIMScheduler

    network = awake(DiffiTTransformer(dataclasses.replace(TINY_TRANSFORMER, num_classes=1000)))
    pipe = LatentDiffiTPipeline(
        network, preconditioning=ADM_DIFFUSION, vae=tiny_vae(), precision="fp32"
    )
    scheduler = DDIMScheduler(clip_sample=False)
    foreign = dit_pipeline(pipe, scheduler)
    foreign.set_progress_bar_config(disable=True)
    theirs = foreign(
        class_labels=[3, 999],
        guidance_scale=1.0,
        num_inference_steps=8,
        generator=[torch.Generator().manual_seed(seed) for seed in (5, 6)],
    ).images
    pipe.sampler = SchedulerSampler(scheduler, num_steps=8)
    ours = pipe(seeds=[5, 6], class_labels=[3, 999])
    for a, b in zip(ours, theirs, strict=True):
        values = (torch.tensor(list(image.tobytes())) for image in (a, b))
        assert int((next(values) - next(values)).abs().max()) <= 1
    with pytest.raises(OvertoneError, match="always has 1000 classes, and this model has 3"):
        dit_pipeline(
            LatentDiffiTPipeline(
                DiffiTTransformer(TINY_TRANSFORMER), preconditioning=ADM_DIFFUSION
            ),
            scheduler,
        )


# Conversion.


def test_convert_writes_a_pipeline_and_a_certificate(tmp_path, capsys):
    golden, state, network = published("diffit_latent")
    save_tensors(tmp_path / "published.safetensors", state)
    main(
        ["convert", "diffit-latent", str(tmp_path / "published.safetensors"), str(tmp_path / "out")]
    )
    pipe = load_pipeline(tmp_path / "out")
    with torch.no_grad():
        out = pipe.network(golden["in.sample"], golden["in.timestep"], golden["in.class_labels"])
    assert deviation(out, golden["out.sample"]) < 2e-6
    assert pipe.sampler == AncestralSampler(num_steps=250)
    proof = json.loads((tmp_path / "out" / "certificate.json").read_text())
    assert proof["parameters"] == network.num_parameters
    assert len(proof["keys_mapped"]) == len(network.state_dict())
    assert set(proof["keys_left"]) == {
        "pos_embed",
        "blocks.0.attn.relative_position_index",
        "blocks.1.attn.relative_position_index",
    }
    assert sorted(proof["keys_mapped"] | proof["keys_left"]) == sorted(state)
    with pytest.raises(OvertoneError, match="no VAE was saved with it"):
        pipe(seeds=[0])


def test_weights_of_something_else_are_refused():
    golden, state, _ = published("diffit_latent")
    for change, message in (
        (
            {"blocks.0.adaLN.weight": torch.ones(2)},
            "'blocks.0.adaLN.weight' is none of its tensors",
        ),
        ({"pos_embed": torch.zeros(1, 16, 48)}, "pos_embed is not the fixed"),
        ({"blocks.1.attn.relative_position_index": torch.zeros(16, 16)}, "is not the index of a 4"),
        ({"blocks.1.mlp.fc1.weight": torch.zeros(7, 48)}, "tensor 'blocks.1.mlp.0.weight' is"),
    ):
        with pytest.raises(OvertoneError, match=message):
            from_published("diffit-latent", state | change)
    less = {name: tensor for name, tensor in state.items() if "blocks.1.mlp" not in name}
    with pytest.raises(OvertoneError, match="4 tensors missing"):
        from_published("diffit-latent", less)
    with pytest.raises(OvertoneError, match="depth is 28, but the weights have 2"):
        from_published("diffit-latent", state, golden.config | {"depth": 28})
    with pytest.raises(OvertoneError, match="not the weights of a latent DiffiT"):
        from_published("diffit-latent", Golden("adm_edm_precond").state)
    with pytest.raises(OvertoneError, match="unknown kind of checkpoint 'diffit'"):
        from_published("diffit", state)
