"""Beginning with the weights of a model that is there: what is copied, and what is told."""

import dataclasses
import shutil

import pytest
import torch
from safetensors.torch import save_file

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
from latent_diffit import published
from overtone.denoisers.preconditioning import VPPreconditioning
from overtone.errors import OvertoneError
from overtone.networks.network import build, build_empty
from overtone.pipelines import Pipeline, load_pipeline
from overtone.runs import find_checkpoint, read_log
from overtone.samplers import Sampler
from overtone.training.configs.denoising import ExpertSettings
from overtone.training.initial import Initial, begin_vae_with, begin_with, open_initial
from overtone.training.loop import Trainer
from overtone.training.recipes import find_recipe
from runs import QUICK, TINY, changed

NAMES = ("a", "b", "c")
NETWORKS = [TINY_DIFFIT, TINY_ADM, TINY_IUNET, TINY_SONG, TINY_TRANSFORMER, TINY_DSNO]


def initial(config, names=NAMES, seed=1):
    torch.manual_seed(seed)
    return Initial("it", awake(build(config)), names)


def fresh(config, seed=2):
    torch.manual_seed(seed)
    return awake(build(config))


def same(network, source, names):
    own, theirs = network.state_dict(), source.state_dict()
    return [name for name in names if torch.equal(own[name], theirs[name])]


@pytest.mark.parametrize("config", NETWORKS, ids=lambda c: c.kind)
def test_the_same_network_is_copied_whole(config):
    source, network = initial(config), fresh(config)
    found = begin_with(network, source, NAMES)
    assert same(network, source.module, source.module.state_dict()) == list(network.state_dict())
    assert (found.share, found.anew, found.partly, found.left) == (1.0, {}, {}, [])
    assert found.told()[0].endswith("100.0% of the parameters are those of it")


@pytest.mark.parametrize("config", [TINY_DIFFIT, TINY_ADM, TINY_SONG], ids=lambda c: c.kind)
def test_classes_are_found_by_their_names(config):
    """Of classes c, a, d those called as they were keep their rows; d begins anew, and all else is
    copied."""
    source = initial(config)
    network = fresh(dataclasses.replace(config, num_classes=3))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    found = begin_with(network, source, ("c", "a", "d"))
    ((table, axis, _),) = network.class_tables()
    own, theirs, first = (
        state[table].movedim(axis, 0)
        for state in (network.state_dict(), source.module.state_dict(), before)
    )
    assert torch.equal(own[0], theirs[2])
    assert torch.equal(own[1], theirs[0])
    assert torch.equal(own[2], first[2])
    others = [name for name in before if name != table]
    assert same(network, source.module, others) == others
    assert found.partly == {table: "2 of 3 classes have the same name there"}
    assert found.copied == sum(t.numel() for t in before.values()) - own[2].numel()


def test_a_class_adds_the_same_whatever_the_number_of_classes():
    """DDPM++ divides by the root of their number: what a class adds is copied, not its weights."""
    source, network = initial(TINY_SONG), fresh(dataclasses.replace(TINY_SONG, num_classes=12))
    begin_with(network, source, ("b", *map(str, range(11))))
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([0.3, -0.4])
    with torch.no_grad():
        made = network.eval()(x, t, torch.tensor([0, 12]))
        wanted = source.module.eval()(x, t, torch.tensor([1, 3]))
    assert torch.allclose(made, wanted, atol=1e-5)


def test_the_null_class_keeps_its_row_however_many_classes_there_are():
    source = initial(TINY_TRANSFORMER)
    network = fresh(dataclasses.replace(TINY_TRANSFORMER, num_classes=5))
    found = begin_with(network, source, ("x", "b", "y", "z", "w"))
    ((table, *_),) = network.class_tables()
    own, theirs = network.state_dict()[table], source.module.state_dict()[table]
    assert torch.equal(own[5], theirs[3])
    assert torch.equal(own[1], theirs[1])
    assert found.partly[table] == "1 of 5 classes have the same name there and the null class"


def test_classes_without_names_are_taken_by_number():
    source, network = initial(TINY_DIFFIT, names=()), fresh(TINY_DIFFIT)
    assert begin_with(network, source, NAMES).share == 1.0
    network = fresh(dataclasses.replace(TINY_DIFFIT, num_classes=4))
    found = begin_with(network, source, ("a", "b", "c", "d"))
    assert "0 of 4 classes" in next(iter(found.anew.values()))


CHANGES = {
    "channels": (TINY_DIFFIT, {"channels": 3}, {"unet.stem", "unet.head"}),
    "no classes": (TINY_DIFFIT, {"num_classes": 0}, set()),
    "resolution": (TINY_DIFFIT, {"resolution": 16}, set()),
    "window": (TINY_DIFFIT, {"window": 2}, {"unet.encoder", "unet.middle", "unet.decoder"}),
    "a level more": (TINY_ADM, {"widths": (16, 32, 32)}, {"unet.encoder", "unet.decoder"}),
    "resolution of latents": (TINY_TRANSFORMER, {"resolution": 12}, {"blocks.0"}),
    "other shapes of experts": (
        TINY_IUNET,
        {"inception_heads": (1, 2)},
        {"unet.encoder"},
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_fits_is_copied_and_the_rest_begins_anew(name):
    config, changes, expected = CHANGES[name]
    source, network = initial(config), fresh(dataclasses.replace(config, **changes))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    found = begin_with(network, source, NAMES)
    state, theirs = network.state_dict(), source.module.state_dict()
    for key, tensor in state.items():
        if key in found.anew:
            assert torch.equal(tensor, before[key])
            assert key not in theirs or theirs[key].shape != tensor.shape
        elif key not in found.partly:
            assert torch.equal(tensor, theirs[key])
    places = {place for place in expected for key in found.anew if key.startswith(place)}
    assert places == expected
    assert found.values == sum(tensor.numel() for tensor in state.values())
    whole = sum(state[key].numel() for key in found.whole)
    partly = found.copied - whole
    assert 0 <= partly <= sum(state[key].numel() for key in found.partly)
    assert 0.2 < found.share <= 1.0


def test_a_learned_variance_comes_and_goes_without_the_output_changing():
    """The part of the last layer that makes the output is the same in both: so is the output."""
    with_variance = initial(TINY_TRANSFORMER)
    x, t, labels = torch.randn(2, 4, 8, 8), torch.tensor([3.0, 500.0]), torch.tensor([0, 2])
    for there, here in ((with_variance, False), (None, True)):
        config = dataclasses.replace(TINY_TRANSFORMER, learned_variance=here)
        source = there or initial(dataclasses.replace(TINY_TRANSFORMER, learned_variance=False))
        network = fresh(config)
        found = begin_with(network, source, NAMES)
        assert set(found.partly) == {"head.weight", "head.bias"}
        with torch.no_grad():
            made, wanted = (n.eval()(x, t, labels)[:, :4] for n in (network, source.module))
        assert torch.allclose(made, wanted, atol=1e-6)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_a_student_begins_with_a_model_that_knows_no_trajectories():
    from overtone.networks import temporalize

    torch.manual_seed(5)
    student = temporalize(awake(build(TINY_DIFFIT)), modes=2)
    source = initial(TINY_DIFFIT)
    reference = {name: tensor.clone() for name, tensor in source.module.state_dict().items()}
    found = begin_with(student, source, NAMES)
    assert all("temporal" in name for name in found.anew)
    assert len(found.whole) == len(reference)
    x = torch.randn(2, 1, 8, 8)
    again = build(TINY_DIFFIT)
    again.load_state_dict(reference)
    with torch.no_grad():  # temporal layers begin at zero
        made = student.eval()(x, torch.tensor([0.5, 0.1]), torch.tensor([0, 1]))
        wanted = again.eval()(x, torch.tensor([0.1, 0.1]), torch.tensor([0, 1]))
    assert torch.allclose(made[:, 1], wanted, atol=1e-5)


@pytest.mark.parametrize("other", [TINY_ADM, TINY_TRANSFORMER, TINY_DSNO], ids=lambda c: c.kind)
def test_another_kind_of_network_is_refused_with_what_would_work(other):
    with pytest.raises(OvertoneError, match=r"is a \w+, and the network to train is a DiffiTUNet"):
        begin_with(fresh(TINY_DIFFIT), initial(other), NAMES)


def test_nothing_in_common_is_refused():
    config = dataclasses.replace(
        TINY_TRANSFORMER, width=48, heads=4, channels=3, time_features=32, patch=4, num_classes=0
    )
    with pytest.raises(OvertoneError, match="has nothing in common with the network to train"):
        begin_with(fresh(config), initial(TINY_TRANSFORMER))


def saved(folder, config=TINY_DIFFIT, **parts):
    torch.manual_seed(4)
    pipe = Pipeline(awake(build(config)), Sampler(num_steps=2), class_names=NAMES, **parts)
    pipe.save_pretrained(folder)
    return folder


def test_damaged_weights_a_vae_and_nothing_are_refused(tmp_path):
    folder = saved(tmp_path / "model")
    (folder / "network" / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(OvertoneError, match=r"--init .*model.*safetensors"):
        open_initial(str(folder))
    (tmp_path / "vae").mkdir()
    tiny_vae().write_into(tmp_path / "vae")
    for place in (tmp_path / "vae", tmp_path):
        with pytest.raises(OvertoneError, match="is a VAE, which makes no images from noise"):
            open_initial(str(place))
    (tmp_path / "weights.pt").write_bytes(b"none")
    with pytest.raises(OvertoneError, match="was not identified"):
        open_initial(str(tmp_path / "weights.pt"))
    with pytest.raises(OvertoneError, match=r"the recipe digits makes runs/digits. Train it first"):
        open_initial("runs/digits")


def test_published_weights_in_a_file(tmp_path):
    _, state, network = published("diffit_latent")
    file = tmp_path / "diffit.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, file)
    found = open_initial(str(file))
    assert begin_with(build(network.config), found).share == 1.0


@pytest.mark.parametrize("marks", [None])
def test_a_diffusers_model_of_the_same_kind(tmp_path, marks):
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    torch.manual_seed(6)
    unet = UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8, 8),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), norm_num_groups=4,
        up_block_types=("AttnUpBlock2D", "UpBlock2D"), attention_head_dim=4, layers_per_block=1,
    )  # fmt: skip
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(tmp_path / "ddpm")
    found = open_initial(str(tmp_path / "ddpm"))
    config = found.module.config.with_classes(3)
    copied = begin_with(build(config), found, NAMES)
    assert list(copied.anew) == ["model.class_embedding.weight"]
    assert copied.share > 0.9


pytestmark = DIFFUSERS_MARKS


def test_a_run_goes_on_from_itself_at_the_same_loss(tmp_path):
    """The averaged weights of the last checkpoint are those that the new run begins with."""
    first = Trainer.of(changed(total_images=512, checkpoint_images=256), show=False)
    first.run(tmp_path / "first")
    last = [e["held_out_loss"] for e in read_log(tmp_path / "first") if "held_out_loss" in e][-1]
    recipe = changed(init=str(tmp_path / "first"))
    Trainer.of(recipe, show=False).run(tmp_path / "second")
    begun = read_log(tmp_path / "second")[0]
    assert begun["images"] == 0
    assert begun["held_out_loss"] == pytest.approx(last, rel=1e-6)


def test_the_new_model_says_what_it_came_from(tmp_path, capsys):
    Trainer.of(QUICK, show=False).run(tmp_path / "first")
    recipe = dataclasses.replace(QUICK, init=str(tmp_path / "first"))
    out = tmp_path / "second"
    Trainer.of(recipe, out=out).run(out)
    assert "100.0% of the parameters are those of first" in capsys.readouterr().err
    pipe = load_pipeline(out)
    assert pipe.training["initialised from"] == "first"
    source = load_pipeline(tmp_path / "first")
    from overtone.networks.network import digest_of

    assert pipe.training["initial weights"] == digest_of(source.network)
    assert "initialised from" in (find_checkpoint(out) / "README.md").read_text()
    # A run that began from something else, or from nothing, is another run.
    with pytest.raises(OvertoneError, match="initialised from"):
        Trainer.of(QUICK, out=out, show=False).run(out)
    # What it came from may be gone when it goes on.
    shutil.rmtree(tmp_path / "first")
    longer = changed(recipe, total_images=96)
    assert Trainer.of(longer, out=out, show=False).run(out).images == 96


def test_experts_begin_from_one_trunk(tmp_path):
    from overtone.training.experts import train_and_merge

    Trainer.of(QUICK, show=False).run(tmp_path / "trunk")
    experts = ExpertSettings((0.5,), (0.5, 0.5))
    recipe = dataclasses.replace(QUICK, experts=experts, init=str(tmp_path / "trunk"))
    train_and_merge(changed(recipe, total_images=32), tmp_path / "experts", show=False)
    trunk = load_pipeline(tmp_path / "trunk").network.state_dict()
    for number in (1, 2):
        begun = tmp_path / "experts" / f"expert-{number}"
        facts = load_pipeline(begun).training
        assert facts["initialised from"] == "trunk"
        assert facts["parameters copied"] == "100.0%"
    # Experts go on from experts, each from its own, and one network from no such model.
    again = dataclasses.replace(recipe, init=str(tmp_path / "experts"))
    initials = [open_initial(again.init, number, 2) for number in (1, 2)]
    merged = load_pipeline(tmp_path / "experts").network.networks
    for found, network in zip(initials, merged, strict=True):
        assert all(
            torch.equal(a, b)
            for a, b in zip(
                found.module.state_dict().values(), network.state_dict().values(), strict=True
            )
        )
    assert any(not torch.equal(trunk[n], t) for n, t in merged[0].state_dict().items())
    with pytest.raises(OvertoneError, match="is a model of 2 experts: name the run of one of them"):
        open_initial(again.init)


def test_another_preconditioning_is_said(tmp_path, capsys):
    folder = saved(tmp_path / "vp", preconditioning=VPPreconditioning(prediction="eps"))
    network = dataclasses.replace(TINY.network, dropout=0.0)
    Trainer.of(dataclasses.replace(TINY, network=network, init=str(folder)))
    assert "was trained under the preconditioning vp" in capsys.readouterr().err


def test_a_vae_begins_with_a_vae(tmp_path):
    (tmp_path / "vae").mkdir()
    torch.manual_seed(7)
    source = tiny_vae()
    source.write_into(tmp_path / "vae")
    from overtone.training.initial import open_initial_vae

    other = tiny_vae(channels=1)
    found = begin_vae_with(other, open_initial_vae(str(tmp_path / "vae")))
    assert set(found.anew) == {
        "encoder.conv_in.weight", "decoder.conv_out.weight", "decoder.conv_out.bias",
    }  # fmt: skip
    with pytest.raises(OvertoneError, match="A VAE begins with another VAE"):
        open_initial_vae(str(saved(tmp_path / "model")))


@pytest.mark.slow
def test_fine_tuning_beats_training_from_nothing(tmp_path):
    """diffit-digits, half trained, becomes a model of letters of the same size: at 5, 10 and 20
    thousand images its held-out loss is below that of the same training from random weights, on the
    same images and noise."""
    digits = changed(
        find_recipe("diffit-digits"),
        total_images=60_000,
        lr_rampdown_images=30_000,
        checkpoint_images=60_000,
    )
    Trainer.of(digits, show=False).run(tmp_path / "digits")
    letters = changed(
        digits,
        data="builtin:glyphs",
        total_images=20_000,
        lr_rampup_images=2_000,
        lr_rampdown_images=0,
        ema_halflife_images=2_000,
        checkpoint_images=5_000,
        held_out_images=4_096,
    )
    losses = {}
    for name, init in (("tuned", str(tmp_path / "digits")), ("nothing", "")):
        Trainer.of(dataclasses.replace(letters, init=init), show=False).run(tmp_path / name)
        log = [e for e in read_log(tmp_path / name) if "held_out_loss" in e]
        losses[name] = {round(e["images"], -3): e["held_out_loss"] for e in log}
    for images in (5_000, 10_000, 20_000):
        assert losses["tuned"][images] < losses["nothing"][images], losses


@pytest.mark.parametrize("config", [TINY_ADM, TINY_IUNET, TINY_SONG, TINY_NCSN])
@pytest.mark.parametrize("larger", [2, 3])
def test_at_another_size_the_levels_of_a_unet_do_what_they_did(config, larger):
    """Each tensor of the larger network has its place in the smaller one, attention's among them,
    and back at the first size the settings are the same."""
    assert config.with_images(config.resolution, config.channels) == config
    other = config.with_images(config.resolution * larger, config.channels)
    shapes = [
        {name: tensor.shape for name, tensor in build_empty(one).state_dict().items()}
        for one in (config, other)
    ]
    assert shapes[0] == shapes[1]
    assert any("attention" in name for name in shapes[0])
    assert other.with_images(config.resolution, config.channels) == config
