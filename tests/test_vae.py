"""VAEs: read from a directory, their loss, their training, and what they decode."""

import json
import shutil

import pytest
import torch

from helpers import TINY_TRANSFORMER, tiny_vae
from overtone.data import open_data, to_unit
from overtone.errors import OvertoneError
from overtone.networks import DiffiTTransformer
from overtone.networks.vae import VAE, VAEConfig
from overtone.processes import SeededNoise
from overtone.runs import find_checkpoint
from overtone.training.configs.vae import VAERecipe
from overtone.training.loop import Trainer
from overtone.training.open import open_vae
from overtone.training.recipes import find_recipe
from overtone.training.vae import VAEObjective
from vaes import PLAN, REPORTS


def test_a_vae_is_read_from_a_directory_and_nothing_else(vae_folder, tmp_path):
    vae = VAE.from_pretrained(vae_folder)
    assert (vae.scaling_factor, vae.channels, vae.image_channels, vae.factor) == (2.5, 4, 3, 2)
    assert VAE.from_pretrained(vae_folder.parent).digest == vae.digest
    assert VAE.from_pretrained(vae_folder, 1.0).scaling_factor == 2.5  # for want of one only
    shutil.copytree(vae_folder, tmp_path / "plain")
    config = json.loads((vae_folder / "config.json").read_text())
    del config["scaling_factor"]
    (tmp_path / "plain" / "config.json").write_text(json.dumps(config))
    with pytest.raises(OvertoneError, match=r"config.json has no scaling_factor: .*0.18215"):
        VAE.from_pretrained(tmp_path / "plain")
    assert VAE.from_pretrained(tmp_path / "plain", 0.18215).scaling_factor == 0.18215
    assert VAE.from_pretrained(tmp_path / "plain", 1.0).digest == vae.digest  # no weight
    with pytest.raises(OvertoneError, match="scaling_factor is 0"):
        VAE.from_pretrained(tmp_path / "plain", 0.0)
    weights = tmp_path / "plain" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(OvertoneError, match="is damaged or was cut short"):
        VAE.from_pretrained(tmp_path / "plain", 1.0)
    DiffiTTransformer(TINY_TRANSFORMER).save_pretrained(tmp_path / "network")
    with pytest.raises(OvertoneError, match="holds a DiffiTTransformer, not an AutoencoderKL"):
        VAE.from_pretrained(tmp_path / "network")


def test_decoding_takes_a_bounded_number_of_images_at_a_time(monkeypatch):
    vae, sizes = tiny_vae(), []
    x, own = torch.randn(5, 4, 8, 8), vae.model.decode

    def counted(z):
        sizes.append(len(z))
        return own(z)

    monkeypatch.setattr(vae.model, "decode", counted)
    with torch.no_grad():
        whole = vae.decode(x)
        monkeypatch.setattr("overtone.networks.vae.DECODED_PIXELS", 2 * 16 * 16)
        parts = vae.decode(x)
    assert sizes == [5, 2, 2, 1]
    assert torch.allclose(whole, parts, atol=1e-5)


def test_the_loss_of_a_vae_is_that_of_its_two_gaussians():
    from torch.distributions import Normal, kl_divergence

    vae = tiny_vae()
    objective = VAEObjective((4, 8, 8), kl_weight=0.5)
    x_0 = torch.rand(3, 3, 16, 16) * 2 - 1
    batch = objective.draw(x_0, torch.zeros(3).long(), SeededNoise([1, 2, 3]))
    with torch.no_grad():
        mean, std = vae.encode(x_0)
        made = vae.model.decode(mean + std * batch["noise"]).sample
        divergence = kl_divergence(Normal(mean, std), Normal(0.0, 1.0)).sum(dim=(1, 2, 3))
        reference = (made - x_0).square().mean(dim=(1, 2, 3)) + 0.5 * divergence
        assert torch.allclose(objective.loss(vae, batch), reference, rtol=1e-4)


def test_a_trained_vae_s_latents_have_unit_scale(tmp_path):
    recipe = VAERecipe(
        about="",
        data="builtin:glyphs",
        network=VAEConfig(resolution=16, widths=(8, 8), groups=4),
        training=PLAN,
        reporting=REPORTS,
    )
    Trainer.of(recipe, show=False).run(tmp_path / "run")
    assert (tmp_path / "run" / "grids" / "000000064.png").exists()
    vae = open_vae(tmp_path / "run")
    data = open_data("builtin:glyphs", 16, 3)
    with torch.no_grad():
        mean, _ = vae.encode(to_unit(data.fetch(range(1024))[0]))
    assert float((mean * vae.scaling_factor).std()) == pytest.approx(1.0, abs=0.02)
    # The run's own settings are a recipe, and the run goes on with them.
    again = find_recipe(str(tmp_path / "run" / "recipe.json"))
    assert again == recipe
    assert Trainer.of(again, show=False).run(tmp_path / "run").images == 64
    shutil.rmtree(find_checkpoint(tmp_path / "run") / "vae")
    with pytest.raises(OvertoneError, match="has no VAE"):
        open_vae(tmp_path / "run")


def test_a_vq_model_makes_latents_too(tmp_path):
    from diffusers import VQModel

    torch.manual_seed(0)
    model = VQModel(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        latent_channels=3,
        num_vq_embeddings=16,
    ).eval()
    model.save_pretrained(tmp_path / "ldm" / "vqvae")
    vae = VAE.from_pretrained(tmp_path / "ldm", scaling_factor=2.0)
    assert (vae.channels, vae.factor, vae.scaling_factor) == (3, 2, 0.18215)  # as its config says
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    with torch.no_grad():
        mean, std = vae.encode(images)
        assert torch.equal(mean, model.encode(images).latents)
        assert not std.any()
        # Latents near the border of two codes: the same rounding on both sides.
        decoded = vae.decode(mean)
        assert torch.allclose(decoded, model.decode(mean / vae.scaling_factor).sample, atol=1e-6)
    (tmp_path / "own").mkdir()
    vae.write_into(tmp_path / "own")
    assert VAE.from_pretrained(tmp_path / "own").digest == vae.digest
