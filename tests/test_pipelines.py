"""Pipelines: sampling by seed, saving and loading, what they refuse."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from helpers import TINY_ADM, TINY_DIFFIT, TINY_TRANSFORMER, awake, tiny_vae
from overtone import storage
from overtone.denoisers import (
    EDMPreconditioning,
    GuidanceSettings,
    VEPreconditioning,
    VPPreconditioning,
)
from overtone.errors import OvertoneError
from overtone.networks import ADMUNet, DiffiTTransformer, DiffiTUNet
from overtone.pipelines import (
    DiffiTPipeline,
    LatentDiffiTPipeline,
    Pipeline,
    load_pipeline,
    merged,
)
from overtone.pipelines.pictures import grid
from overtone.processes import DiscreteSchedule, RelayProcess
from overtone.samplers import AncestralSampler, Sampler
from overtone.samplers.sampler import SECOND_STAGE
from pipeline_kinds import kinds_of_pipelines


@pytest.fixture
def pipe():
    network = awake(DiffiTUNet(TINY_DIFFIT))
    return DiffiTPipeline(network, Sampler(num_steps=4), class_names="abc", precision="fp32")


def pixels(images):
    return np.stack([np.asarray(image) for image in images])


def test_images_of_a_seed_are_the_same_in_any_batch(pipe):
    whole = pixels(pipe(seeds=range(10), class_labels=1, batch_size=10))
    parts = pixels(pipe(seeds=range(10), class_labels=1, batch_size=3))
    alone = pixels(pipe(seeds=[7], class_labels=[1]))
    # The noise is bit-equal; matrix products may round differently, by at most one grey level.
    assert np.abs(whole.astype(int) - parts).max() <= 1
    assert np.abs(whole[7].astype(int) - alone[0]).max() <= 1
    assert np.abs(whole[0].astype(int) - whole[1]).max() > 10


def test_starts_are_bit_equal_in_any_batch(pipe):
    def first(seeds):
        """What the first evaluation sees."""
        seen = []
        handle = pipe.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        pipe(seeds)
        handle.remove()
        return seen[0]

    assert torch.equal(first(list(range(64)))[63], first([63])[0])


def test_arguments_do_what_they_say(pipe):
    default = pixels(pipe([0, 1, 2, 3]))
    assert np.array_equal(default, pixels(pipe([0, 1, 2, 3], class_labels=[0, 1, 2, 0])))
    assert not np.array_equal(default, pixels(pipe([0, 1, 2, 3], class_labels=2)))
    assert not np.array_equal(default, pixels(pipe([0, 1, 2, 3], guidance_scale=4.0)))
    outside = pipe([0, 1, 2, 3], guidance_scale=4.0, guidance_interval=(90.0, 100.0))
    assert np.array_equal(default, pixels(outside))
    assert not np.array_equal(default, pixels(pipe([0, 1, 2, 3], steps=2)))
    assert len(list(pipe.path([0], steps=7))) == 7
    assert pipe([]) == []


def test_pictures_are_grey_or_colour(pipe):
    assert pipe([0])[0].mode == "L"
    config = dataclasses.replace(TINY_ADM, channels=3, num_classes=0)
    image = Pipeline(ADMUNet(config), Sampler(num_steps=2))([0])[0]
    assert (image.mode, image.size) == ("RGB", (8, 8))


def test_grid_is_row_by_row():
    images = torch.arange(3, dtype=torch.uint8)[:, None, None, None].expand(3, 1, 2, 2)
    sheet = np.asarray(grid(images, 2))
    assert sheet.tolist() == [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 64, 64], [2, 2, 64, 64]]
    assert grid(images, 3, gap=1).size == (8, 2)


def test_saved_pipelines_give_the_same_images_in_a_fresh_process(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "model")
    expected = pixels(pipe(range(4), guidance_scale=1.5))
    script = f"""
import numpy as np
from overtone import DiffiTPipeline
pipe = DiffiTPipeline.from_pretrained({str(tmp_path / "model")!r})
pipe.precision = "fp32"
images = pipe(range(4), guidance_scale=1.5)
np.save({str(tmp_path / "out.npy")!r}, np.stack([np.asarray(i) for i in images]))
assert pipe.class_names == ("a", "b", "c")
"""
    subprocess.run([sys.executable, "-c", script], check=True)
    assert np.array_equal(np.load(tmp_path / "out.npy"), expected)
    files = sorted(str(f.relative_to(tmp_path / "model")) for f in tmp_path.rglob("model/**/*.*"))
    assert files == [
        "README.md", "network/config.json", "network/model.safetensors", "pipeline.json"
    ]  # fmt: skip


def test_pipelines_load_as_what_they_were(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "diffit")
    Pipeline(ADMUNet(TINY_ADM)).save_pretrained(tmp_path / "adm")
    assert isinstance(load_pipeline(tmp_path / "diffit"), DiffiTPipeline)
    assert not isinstance(load_pipeline(tmp_path / "adm"), DiffiTPipeline)
    with pytest.raises(OvertoneError, match="DiffiTPipeline takes DiffiTUNet, not ADMUNet"):
        DiffiTPipeline.from_pretrained(tmp_path / "adm")


def test_networks_save_and_load_alone(pipe, tmp_path):
    pipe.network.save_pretrained(tmp_path / "network")
    again = DiffiTUNet.from_pretrained(tmp_path / "network")
    assert again.config == pipe.network.config
    x, time = torch.randn(1, 1, 8, 8), torch.randn(1)
    with torch.no_grad():
        # The pipeline keeps its weights channels-last, where sums are taken in another order.
        assert torch.allclose(again(x, time), pipe.network(x, time), atol=1e-6)


@pytest.mark.parametrize("kind", list(kinds_of_pipelines()))
def test_a_saved_model_does_not_say_where_it_was(kind, tmp_path):
    kinds_of_pipelines()[kind].save_pretrained(tmp_path / "one")
    load_pipeline(tmp_path / "one").save_pretrained(tmp_path / "two")
    files = [file for file in (tmp_path / "two").rglob("*") if file.is_file()]
    assert len(files) > 2
    for file in files:
        assert str(tmp_path).encode() not in file.read_bytes(), file


def test_push_uploads_the_saved_directory(pipe, tmp_path, monkeypatch):
    from huggingface_hub import HfApi

    seen = {}
    monkeypatch.setattr(
        HfApi, "create_repo", lambda self, repo_id, **k: type("Url", (), {"repo_id": repo_id})
    )

    def upload(self, *, repo_id, folder_path, delete_patterns):
        seen[repo_id] = sorted(f.name for f in folder_path.rglob("*.*"))
        # A former model's VAE or first stage would be loaded with this one; other files stay.
        assert {"vae/**", "first/**", "network/**"} <= set(delete_patterns)
        assert not {"*", "**", ".gitattributes"} & set(delete_patterns)
        return "https://hub/commit"

    monkeypatch.setattr(HfApi, "upload_folder", upload)
    assert pipe.push_to_hub("me/digits") == "https://hub/commit"
    assert seen["me/digits"] == [
        "README.md", "config.json", "model.safetensors", "pipeline.json"
    ]  # fmt: skip


def test_saving_replaces_a_former_version_whole(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "model")
    pipe.sampler = Sampler(num_steps=9)
    pipe.save_pretrained(tmp_path / "model")
    assert load_pipeline(tmp_path / "model").sampler.num_steps == 9
    assert [f.name for f in tmp_path.iterdir()] == ["model"]
    # A backup under the usual name is nobody's to delete.
    (tmp_path / "model.old").mkdir()
    (tmp_path / "model.old" / "mine").touch()
    pipe.save_pretrained(tmp_path / "model")
    assert sorted(f.name for f in tmp_path.iterdir()) == ["model", "model.old"]
    assert (tmp_path / "model.old" / "mine").exists()


def test_saving_through_a_link_replaces_what_it_points_to(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "model")
    (tmp_path / "link").symlink_to("model")
    pipe.sampler = Sampler(num_steps=9)
    pipe.save_pretrained(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert load_pipeline(tmp_path / "model").sampler.num_steps == 9
    assert sorted(f.name for f in tmp_path.iterdir()) == ["link", "model"]


def test_images_that_are_no_numbers_are_an_error(pipe):
    with pytest.raises(OvertoneError, match="guidance_scale must be finite, not nan"):
        pipe([0], guidance_scale=float("nan"))
    with torch.no_grad():
        next(pipe.network.parameters()).fill_(float("nan"))
    with pytest.raises(OvertoneError, match="not finite: its weights are damaged"):
        pipe([0])


def test_saving_never_deletes_what_is_not_a_model(pipe, tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(OvertoneError, match=r"holds other files \(thesis\.tex\)"):
        pipe.save_pretrained(tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "mine"
    with pytest.raises(OvertoneError, match="holds other files"):
        pipe.network.save_pretrained(tmp_path)


def test_arguments_that_make_no_sense_are_refused(pipe):
    with pytest.raises(OvertoneError, match="num_steps must be at least 1, not 0"):
        pipe([0], steps=0)
    with pytest.raises(OvertoneError, match="at least one image"):
        pipe([0], batch_size=0)
    with pytest.raises(OvertoneError, match="seed -1 is not in"):
        pipe([-1], class_labels=0)
    for wrong in (3, [1.5], ["a"]):
        with pytest.raises(OvertoneError, match="seeds are several integers"):
            pipe(wrong)
    unconditional = DiffiTPipeline(DiffiTUNet(dataclasses.replace(TINY_DIFFIT, num_classes=0)))
    with pytest.raises(OvertoneError, match="class-conditional model"):
        unconditional([0], guidance_scale=2.0)


def test_labels_are_checked(pipe):
    with pytest.raises(OvertoneError, match=r"class label 3 is outside 0\.\.2"):
        pipe([0, 1], class_labels=[0, 3])
    with pytest.raises(OvertoneError, match="3 class labels for 2 seeds"):
        pipe([0, 1], class_labels=[0, 1, 2])
    with pytest.raises(OvertoneError, match="unknown class 'dog': known: a, b, c"):
        pipe([0, 1], class_labels="dog")
    for wrong in ([0.0, 1.0], torch.zeros(2, 1).long(), torch.ones(2).bool(), [[0], [1, 2]]):
        with pytest.raises(OvertoneError, match=r"class labels are integers in 0\.\.2"):
            pipe([0, 1], class_labels=wrong)


def test_seeds_and_labels_may_be_of_numpy_and_torch(pipe):
    expected = torch.cat([b.images for b in pipe.stream([3, 4, 5], [2, 2, 2])])
    for seeds, labels in (
        (np.arange(3, 6), np.full(3, 2)),
        (torch.arange(3, 6), torch.full((3,), 2, dtype=torch.uint8)),
    ):
        made = torch.cat([b.images for b in pipe.stream(seeds, labels)])
        assert torch.equal(made, expected)
    assert list(pipe.stream([])) == []


def test_a_pipeline_loaded_in_inference_mode_works(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "model")
    expected = torch.cat([b.images for b in pipe.stream(range(2))])
    with torch.inference_mode():
        loaded = load_pipeline(tmp_path / "model")
        loaded.precision = pipe.precision
        inside = torch.cat([b.images for b in loaded.stream(range(2))])
    outside = torch.cat([b.images for b in loaded.stream(range(2))])
    assert torch.equal(inside, expected)
    assert torch.equal(outside, expected)
    unconditional = DiffiTPipeline(DiffiTUNet(dataclasses.replace(TINY_DIFFIT, num_classes=0)))
    with pytest.raises(OvertoneError, match="unconditional"):
        unconditional([0], class_labels=1)


def damage(folder, file, change):
    path = folder / file
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("pipeline.json", lambda c: c.update(pipeline="DiffitPipeline"), "did you mean 'DiffiTPip"),
        ("pipeline.json", lambda c: c.update(pipeline=[]), "unknown pipeline '\\[\\]'"),
        (
            "pipeline.json",
            lambda c: c["start"].update(kind="nose"),
            "unknown start 'nose': did you",
        ),
        (
            "pipeline.json",
            lambda c: c.update(start={"kind": "relay", "first_stage": 3}),
            "'first_stage' is nothing that a file can say",
        ),
        ("pipeline.json", lambda c: c.update(network="ADMUNet"), "network/ holds a DiffiTUNet"),
        ("pipeline.json", lambda c: c["process"].update(kind="edm"), "'edm' is a kind of precond"),
        ("pipeline.json", lambda c: c.update(network="os.system"), "unknown network 'os.system'"),
        ("pipeline.json", lambda c: c.update(sigmadata=1), "unknown key 'sigmadata'.*'sigma_data'"),
        ("pipeline.json", lambda c: c["sampler"].update(eta=2), r"eta must be in \[0, 1\], not 2"),
        ("pipeline.json", lambda c: c["sampler"].update(estimate="hein"), "should be 'single', "),
        ("network/config.json", lambda c: c.update(windw=2), r"config\.json: unknown key 'windw'"),
        ("network/config.json", lambda c: c.update(widths=[16, 48]), "config.json asks for"),
        ("network/config.json", lambda c: c.update(num_cells=[1, 2]), "tensors missing"),
        ("network/config.json", lambda c: c.update(window=3), r"config\.json: level 0 is 8"),
        ("network/config.json", lambda c: c.update(dropout="0.1"), "key 'dropout'"),
        ("network/config.json", lambda c: c.update(num_classes=-1), r"config\.json: "),
    ],
)
def test_damaged_settings_are_named(pipe, tmp_path, file, change, message):
    pipe.save_pretrained(tmp_path / "model")
    damage(tmp_path / "model", file, change)
    with pytest.raises(OvertoneError, match=message):
        load_pipeline(tmp_path / "model")


def test_truncated_and_missing_weights_are_named(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "model")
    file = tmp_path / "model" / "network" / "model.safetensors"
    content = file.read_bytes()
    for length in (0, 5, 100, len(content) - 1):
        file.write_bytes(content[:length])
        with pytest.raises(OvertoneError, match=r"model\.safetensors is damaged or was cut short"):
            load_pipeline(tmp_path / "model")
    file.unlink()
    with pytest.raises(OvertoneError, match=r"model\.safetensors does not exist"):
        load_pipeline(tmp_path / "model")


def test_what_is_no_pipeline_is_refused(tmp_path):
    with pytest.raises(OvertoneError, match=r"has no pipeline\.json"):
        load_pipeline(tmp_path)
    (tmp_path / "pipeline.json").write_text("{")
    with pytest.raises(OvertoneError, match=r"pipeline\.json is not valid JSON"):
        load_pipeline(tmp_path)
    with pytest.raises(OvertoneError, match="was not found: there is no such directory"):
        load_pipeline("nobody/nothing")
    with pytest.raises(OvertoneError, match="is a file"):
        load_pipeline(tmp_path / "pipeline.json")


def test_a_failed_write_names_the_place_and_keeps_the_old(tmp_path):
    storage.write_json(tmp_path / "a.json", 1)
    with pytest.raises(TypeError):
        storage.write_json(tmp_path / "a.json", object())
    assert storage.read_json(tmp_path / "a.json") == 1
    assert [f.name for f in tmp_path.iterdir()] == ["a.json"]


def test_a_model_that_never_saw_the_null_class_is_not_guided(tmp_path):
    network = awake(DiffiTUNet(TINY_DIFFIT))
    pipe = DiffiTPipeline(network, Sampler(num_steps=2), training={"label dropout": 0.0})
    with pytest.raises(OvertoneError, match="no null class for classifier-free guidance"):
        pipe([0], class_labels=1, guidance_scale=2.0)
    pipe.save_pretrained(tmp_path / "pipe")
    assert not load_pipeline(tmp_path / "pipe").denoiser.has_null_class
    assert "guidance_scale" not in (tmp_path / "pipe" / "README.md").read_text()


def test_the_card_names_a_scale_only_where_none_is_saved_and_facts_that_are_zero(pipe, tmp_path):
    pipe.training = {"seed": 0, "label dropout": 0.1, "unknown": ""}
    pipe.save_pretrained(tmp_path / "plain")
    pipe.guidance = GuidanceSettings(scale=3.0)
    pipe.save_pretrained(tmp_path / "guided")
    plain, guided = ((tmp_path / name / "README.md").read_text() for name in ("plain", "guided"))
    assert "| seed | 0 |" in plain
    assert "unknown" not in plain
    assert "guidance_scale=1.5)" in plain
    assert "guidance_scale=" not in guided


def test_autoguidance_by_itself_changes_nothing_and_by_a_weaker_model_does(pipe):
    torch.manual_seed(1)
    weaker = DiffiTPipeline(awake(DiffiTUNet(TINY_DIFFIT)), pipe.sampler, precision="fp32")
    plain = pipe([1, 2], class_labels=0)
    same = pipe([1, 2], class_labels=0, guidance_scale=2.0, guide=pipe)
    guided = pipe([1, 2], class_labels=0, guidance_scale=2.0, guide=weaker)
    assert np.abs(pixels(plain).astype(int) - pixels(same)).max() <= 1
    assert [i.tobytes() for i in plain] != [i.tobytes() for i in guided]


@pytest.mark.parametrize(
    "settings",
    [
        VPPreconditioning("v", DiscreteSchedule("cosine", 100), 99.0),
        VEPreconditioning(),
        EDMPreconditioning(0.7),
    ],
    ids=lambda settings: settings.kind,
)
def test_a_pipeline_keeps_its_denoiser(tmp_path, settings):
    pipe = Pipeline(ADMUNet(TINY_ADM), Sampler(num_steps=3), preconditioning=settings)
    pipe.save_pretrained(tmp_path / "pipe")
    again = load_pipeline(tmp_path / "pipe")
    assert again.denoiser.preconditioning == settings
    assert again.preconditioning == settings
    assert again([4])[0].tobytes() == pipe([4])[0].tobytes()


def bytes_of(folder):
    return sum(file.stat().st_size for file in folder.rglob("*.safetensors"))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", torch.float16])
def test_weights_in_half_precision_halve_the_files_and_are_read_as_float32(tmp_path, dtype):
    torch.manual_seed(0)
    low = dataclasses.replace(TINY_ADM, resolution=4, attention_resolutions=())
    relay = Pipeline(
        awake(DiffiTUNet(TINY_DIFFIT)), SECOND_STAGE, process=RelayProcess(patch=2),
        precision="fp32",
    )  # fmt: skip
    relay.first = Pipeline(awake(ADMUNet(low)), Sampler(3), precision="fp32")
    network = awake(DiffiTTransformer(TINY_TRANSFORMER))
    latent = LatentDiffiTPipeline(network, AncestralSampler(2), vae=tiny_vae())
    experts = merged([relay.first, relay.first], [1.0])
    for name, pipe in (("relay", relay), ("latent", latent), ("experts", experts)):
        pipe.save_pretrained(tmp_path / name)
        pipe.save_pretrained(tmp_path / f"{name}-half", dtype)
        ratio = bytes_of(tmp_path / f"{name}-half") / bytes_of(tmp_path / name)
        assert 0.5 <= ratio < 0.62  # the header with the names is not halved
        again = load_pipeline(tmp_path / f"{name}-half")
        word = str(dtype).removeprefix("torch.")
        for key, tensor in pipe.network.state_dict().items():
            loaded = again.network.state_dict()[key]
            assert loaded.dtype == tensor.dtype
            assert torch.equal(loaded, tensor.to(getattr(torch, word)).to(tensor.dtype))
        assert all(p.dtype == torch.float32 for p in pipe.network.parameters())
        assert len(again([1, 2], class_labels=[0, 1])) == 2
    vae = load_pipeline(tmp_path / "latent-half").vae
    assert all(parameter.dtype == torch.float32 for parameter in vae.parameters())


def test_half_precision_that_can_not_be(tmp_path):
    pipe = Pipeline(awake(DiffiTUNet(TINY_DIFFIT)))
    for dtype in ("int8", "float8", torch.float64, 16):
        with pytest.raises(OvertoneError, match="weights are saved as float32, float16, bfloat16"):
            pipe.save_pretrained(tmp_path / "pipe", dtype)
    with torch.no_grad():
        next(pipe.network.parameters()).view(-1)[0] = 1e6
    with pytest.raises(OvertoneError, match=r"holds numbers up to 1e\+06, which float16 can't"):
        pipe.save_pretrained(tmp_path / "pipe", "float16")
    pipe.save_pretrained(tmp_path / "pipe", "bfloat16")
    assert list(tmp_path.iterdir()) == [tmp_path / "pipe"]
