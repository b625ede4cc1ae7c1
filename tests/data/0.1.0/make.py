"""What the files in this folder were made with: Overtone 0.1.0, run in this folder.

Later versions open them and get the same images (tests/test_former_versions.py). The script is kept
to say what they are; it runs with version 0.1.0 alone.
"""

import dataclasses
import sys
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parents[2]))
from overtone.training.recipe import ExpertSettings, Recipe, trainer_of

import helpers
from helpers import TINY_TRANSFORMER, awake, tiny_vae
from overtone import settings, storage
from overtone.data import latents, open_data
from overtone.denoisers import (
    ADM_DIFFUSION,
    EDMSettings,
    GuidanceSettings,
    OperatorSettings,
    VESettings,
    VPSettings,
)
from overtone.networks import (
    ADMUNet,
    DiffiTTransformer,
    DiffiTUNet,
    DSNOUNet,
    IUNet,
    SongUNet,
    temporalize,
)
from overtone.networks.dsno import DSNOConfig
from overtone.networks.vae import VAEConfig
from overtone.pipelines import (
    DiffiTPipeline,
    DSNOPipeline,
    ImagePipeline,
    LatentDiffiTPipeline,
    MEMEPipeline,
    RelayPipeline,
)
from overtone.processes import DiscreteSchedule, QuantileSchedule, RelayProcess
from overtone.samplers import AncestralSampler, OperatorSampler, Sampler, budget_grid
from overtone.training.collect import collect
from overtone.training.distill import Distillation, distiller_of
from overtone.training.experts import merged_run, train_experts
from overtone.training.loop import Reporting, Training
from overtone.training.recipes import RECIPES
from overtone.training.teacher import open_teacher
from overtone.training.vae import VAERecipe

HERE = Path(__file__).parent
TINY_DIFFIT = dataclasses.replace(helpers.TINY_DIFFIT, widths=(8, 16), token_width=16)
TINY_ADM = dataclasses.replace(helpers.TINY_ADM, widths=(8, 16), embedding_width=16)
TINY_IUNET = dataclasses.replace(
    helpers.TINY_IUNET, widths=(8, 16), embedding_width=16, head_channels=4
)
TINY_SONG = dataclasses.replace(
    helpers.TINY_SONG, widths=(8, 16), stem_width=8, frequencies=8, embedding_width=16
)
NAMES = ("cat", "dog", "emu")
PROCESS = RelayProcess(patch=2, schedule=QuantileSchedule(prob_length=0.93))
SECOND = dataclasses.replace(TINY_ADM, resolution=16, attention_resolutions=(8,))
SECONDS_SAMPLER = Sampler(
    num_steps=6, sigma_min=0.01, truncation_sigma=0.9, estimate="two_step", eta=0.2
)
SHARED = {"precision": "fp32", "class_names": NAMES, "training": {"label dropout": 0.1}}


def models() -> dict[str, ImagePipeline]:
    torch.manual_seed(0)
    made: dict[str, ImagePipeline] = {}
    made["diffit"] = DiffiTPipeline(
        awake(DiffiTUNet(TINY_DIFFIT)), Sampler(num_steps=4), data="builtin:digits", **SHARED
    )
    made["guided"] = ImagePipeline(
        awake(ADMUNet(TINY_ADM)),
        Sampler(num_steps=3, S_churn=10, S_min=0.05, S_max=50, S_noise=1.003),
        denoiser=EDMSettings(0.7),
        guidance=GuidanceSettings(scale=2.0, interval=(0.1, 10.0)),
        **SHARED,
    )
    levels = budget_grid((0.5,), (2, 3))
    made["levels"] = ImagePipeline(
        awake(SongUNet(TINY_SONG)), Sampler(num_steps=5, levels=levels), **SHARED
    )
    made["vp"] = ImagePipeline(
        awake(ADMUNet(TINY_ADM)),
        Sampler(num_steps=4, sigma_max=100.0),
        denoiser=VPSettings("v", DiscreteSchedule("cosine", 100), 99.0),
        **SHARED,
    )
    made["ve"] = ImagePipeline(
        awake(ADMUNet(TINY_ADM)), Sampler(num_steps=4), denoiser=VESettings(), **SHARED
    )
    made["latent"] = LatentDiffiTPipeline(
        awake(DiffiTTransformer(TINY_TRANSFORMER)),
        AncestralSampler(num_steps=4),
        guidance=GuidanceSettings(scale=1.5, channels=(0, 1, 2), power=4.0),
        vae=tiny_vae(),
        **SHARED,
    )
    made["relay"] = RelayPipeline(
        awake(ADMUNet(SECOND)), SECONDS_SAMPLER, process=PROCESS, **SHARED
    )
    made["relay"].first = made["diffit"]
    made["second"] = RelayPipeline(
        awake(ADMUNet(SECOND)), SECONDS_SAMPLER, process=PROCESS, **SHARED
    )
    experts = [
        ImagePipeline(awake(IUNet(TINY_IUNET)), Sampler(num_steps=5), **SHARED),
        ImagePipeline(awake(ADMUNet(TINY_ADM)), Sampler(num_steps=5), **SHARED),
    ]
    made["experts"] = MEMEPipeline.merged(experts, (0.5,))
    made["relay-experts"] = MEMEPipeline.merged([made["second"], made["relay"]], (0.1,))
    made["relay-experts"].first = made["diffit"]
    made["operator"] = DSNOPipeline(
        awake(temporalize(made["diffit"].network, 2)),
        OperatorSampler((80.0, 2.0, 0.3, 0.0)),
        denoiser=OperatorSettings(EDMSettings(), 0.002),
        **SHARED,
    )
    own = DSNOConfig(
        resolution=8,
        channels=1,
        num_classes=3,
        widths=(32,),
        num_cells=1,
        attention_resolutions=(),
        frequencies=16,
        embedding_width=16,
        log_snr_min=-15.0,
        log_snr_max=18.0,
    )
    made["operator-own"] = DSNOPipeline(
        awake(DSNOUNet(own)), OperatorSampler((80.0, 1.0, 0.0)), **SHARED
    )
    made["distilled-relay"] = RelayPipeline(
        awake(temporalize(made["relay"].network, 2)),
        OperatorSampler((SECONDS_SAMPLER.sigma_start, 0.1, 0.0)),
        denoiser=OperatorSettings(EDMSettings(), 0.01),
        process=PROCESS,
        **SHARED,
    )
    made["distilled-relay"].first = made["operator"]
    return made


TRAINING = Training(
    total_images=64,
    batch_size=16,
    lr=1e-3,
    lr_rampup_images=32,
    ema_halflife_images=50,
    precision="fp32",
)
REPORTING = Reporting(report_images=32, checkpoint_images=64, held_out_images=16, keep=1)
BOTH = {"about": "", "training": TRAINING, "reporting": REPORTING}


def narrow(config, **changes):
    return dataclasses.replace(config, num_classes=0, **changes)


def recipes() -> dict[str, Recipe | VAERecipe]:
    classes = {"class_conditional": True, "label_dropout": 0.1}
    digits = {"data": "builtin:digits", **classes, **BOTH}
    glyphs = {"data": "builtin:glyphs", **classes, **BOTH}
    small = narrow(TINY_DIFFIT)
    return {
        "denoising": Recipe(network=small, guidance=GuidanceSettings(1.5), **digits),
        "vp": Recipe(
            network=narrow(TINY_ADM),
            denoiser=VPSettings("v", DiscreteSchedule("cosine", 100), 99.0),
            schedule=DiscreteSchedule("cosine", 100),
            weighting="edm",
            **digits,
        ),
        "hybrid": Recipe(
            network=narrow(TINY_TRANSFORMER, channels=1, learned_variance=True, width=16),
            denoiser=ADM_DIFFUSION,
            schedule=ADM_DIFFUSION.schedule,
            weighting="eps",
            sampler=AncestralSampler(num_steps=4),
            **digits,
        ),
        "experts": Recipe(
            network=narrow(TINY_IUNET, inception_heads=()),
            experts=ExpertSettings((0.5,), (0.5, 0.25), shapes="published"),
            **digits,
        ),
        "relay": Recipe(
            network=narrow(TINY_ADM, channels=3, resolution=16),
            process=PROCESS,
            schedule=PROCESS.schedule,
            sampler=SECONDS_SAMPLER,
            **glyphs,
        ),
        "vae": VAERecipe(
            network=VAEConfig(resolution=16, widths=(8, 8), groups=4),
            data="builtin:glyphs",
            **BOTH,
        ),
        "latent": Recipe(
            network=narrow(
                TINY_TRANSFORMER, resolution=8, width=16, heads=2, learned_variance=False
            ),
            denoiser=EDMSettings(1.0),
            schedule=QuantileSchedule(P_mean=0.0),
            vae="runs/vae",
            encoded_images=64,
            **glyphs,
        ),
    }


DISTILLATION = Distillation(
    teacher="models/diffit",
    count=24,
    held_out=8,
    num_times=3,
    solver="heun",
    steps=5,
    guidance_scale=1.5,
    **BOTH,
)


def main() -> None:
    images = {}
    for name, pipe in models().items():
        pipe.save_pretrained(HERE / "models" / name)
        if name == "second":
            low = torch.linspace(-1, 1, 64).reshape(1, 1, 8, 8)
            made = pipe.upscale(low, [1], [5])
            assert isinstance(made[0], Image.Image)
            pipe.first = low
            images["second"] = next(pipe.stream([5], [1])).images
        else:
            images[name] = next(pipe.stream(range(4))).images
        if name in ("diffit", "vp", "experts"):
            images[f"{name} guided"] = next(pipe.stream(range(4), [2, 1, 0, 2], 2.0)).images
    save_file(images, HERE / "images.safetensors")

    storage.write_json(
        HERE / "recipes.json", {name: settings.dump(make()) for name, make in RECIPES.items()}
    )
    goes_on = {}
    for name, recipe in recipes().items():
        if name == "experts":
            train_experts(recipe, HERE / "runs" / name)
            merged_run(HERE / "runs" / name).save_pretrained(HERE / "runs" / name / "merged")
            continue
        trainer = trainer_of(recipe, show=False)
        trainer.run(HERE / "runs" / name)
        # What the run would become if it went on.
        longer = dataclasses.replace(TRAINING, total_images=128)
        trainer = trainer_of(dataclasses.replace(recipe, training=longer), show=False)
        trainer.run(HERE / "longer" / name)
        goes_on |= {f"{name} {key}": value for key, value in trainer.model.state_dict().items()}
    teacher = open_teacher("models/diffit", "heun", 5, 1.5, precision="fp32")
    trajectories = HERE / "trajectories"
    collect(DISTILLATION, teacher, trajectories, show=False)
    distiller_of(DISTILLATION, teacher, trajectories, show=False).run(HERE / "runs" / "operator")
    longer = dataclasses.replace(TRAINING, total_images=128)
    trainer = distiller_of(
        dataclasses.replace(DISTILLATION, training=longer), teacher, trajectories, show=False
    )
    trainer.run(HERE / "longer" / "operator")
    goes_on |= {f"operator {key}": value for key, value in trainer.model.state_dict().items()}
    save_file(
        {name: value.contiguous() for name, value in goes_on.items()},
        HERE / "longer.safetensors",
    )
    vae = tiny_vae()
    data = open_data("builtin:glyphs", 16, 3)
    index = latents.latents_index(data, vae, images=16)
    latents.encode(data, vae, HERE / "latents", index, show=False)


if __name__ == "__main__":
    main()
