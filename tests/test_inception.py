"""Inception's features and the scores on them, against torch-fidelity itself.

The weights are random: what is compared is the computation.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

import beside
from overtone.errors import OvertoneError
from overtone.metrics import InceptionExtractor, frechet_distance, kernel_distance


@pytest.fixture(scope="module")
def fidelity():
    return beside.fidelity()


@pytest.fixture(scope="module")
def weights(fidelity, tmp_path_factory):
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3 as Network

    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("inception") / "weights.pth"
    torch.save({}, file)
    load, Network.load_state_dict = Network.load_state_dict, lambda self, state: None
    try:
        network = Network("random", ["2048"], str(file))
    finally:
        Network.load_state_dict = load
    for module in network.modules():  # so that features tell images apart, layers deep
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
    torch.save(network.state_dict(), file)
    return file


def images(count, seed, size=16):
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 4, 4, generator=generator) * (1 + seed) / 2
    fine = torch.nn.functional.interpolate(coarse, size, mode="bilinear")
    return (fine * 255).clamp(0, 255).to(torch.uint8)


@pytest.mark.slow
def test_scores_are_torch_fidelitys(fidelity, weights):
    class Images(torch.utils.data.Dataset):
        def __init__(self, pixels):
            self.pixels = pixels

        def __len__(self):
            return len(self.pixels)

        def __getitem__(self, index):
            return self.pixels[index]

    fake, real = images(48, 1), images(40, 2)
    theirs = fidelity.calculate_metrics(
        input1=Images(fake), input2=Images(real), cuda=False, fid=True, kid=True, verbose=False,
        kid_subset_size=20, cache=False, save_cpu_ram=True, batch_size=16,
        feature_extractor_weights_path=str(weights),
    )  # fmt: skip
    extractor = InceptionExtractor(weights)
    assert sorted(extractor(fake[:2])._asdict()) == ["logits", "spatial", "vectors"]
    ours = [torch.cat([extractor(p).vectors for p in x.split(10)]) for x in (real, fake)]
    assert ours[0].shape == (40, 2048)
    fid, kid = frechet_distance(*ours), kernel_distance(*ours, subset_size=20)
    assert fid == pytest.approx(theirs["frechet_inception_distance"], rel=1e-4)
    assert kid == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-4)


def test_grey_images_and_safetensors_weights(fidelity, weights, tmp_path):
    from safetensors.torch import save_file

    state = torch.load(weights, weights_only=True)
    save_file({k: v.contiguous() for k, v in state.items()}, tmp_path / "weights.safetensors")
    extractor = InceptionExtractor(tmp_path / "weights.safetensors")
    assert extractor.digest == InceptionExtractor(weights).digest
    grey = images(2, 1)[:, :1]
    assert torch.equal(extractor(grey).vectors, extractor(grey.expand(-1, 3, -1, -1)).vectors)


def test_weights_that_execute_code_or_do_not_fit_are_refused(fidelity, tmp_path):
    class Evil:
        def __reduce__(self):
            return (Path(tmp_path / "pwned").touch, ())

    torch.save({"a": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(OvertoneError, match=r"can't be read from .*evil\.pth"):
        InceptionExtractor(tmp_path / "evil.pth")
    assert not (tmp_path / "pwned").exists()
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(OvertoneError, match="other weights than torch-fidelity's"):
        InceptionExtractor(tmp_path / "other.pth")
    with pytest.raises(OvertoneError, match="can't be read"):
        InceptionExtractor(tmp_path / "absent.pth")


def test_class_scores_and_spatial_features_are_those_of_their_layers(fidelity, weights):
    """The logits are the pooled features times the last layer's weights, without its bias. ADM's
    spatial features are what the first branch of the fourth 17 x 17 block makes of the block
    before, run by hand here."""
    extractor = InceptionExtractor(weights)
    pixels = images(3, 1)
    found = extractor(pixels)
    network = extractor.network
    assert torch.allclose(found.logits, found.vectors @ network.fc.weight.T, rtol=1e-4, atol=1e-3)
    assert found.logits.shape == (3, 1008)
    assert found.spatial.shape == (3, 7 * 17 * 17)
    blocks = {}
    hooks = [
        getattr(network, name).register_forward_hook(
            lambda module, inputs, output, name=name: blocks.update({name: output})
        )
        for name in ("Mixed_6c",)
    ]
    extractor(pixels)
    for hook in hooks:
        hook.remove()
    branch = network.Mixed_6d.branch1x1
    with torch.no_grad():
        expected = torch.relu(branch.bn(branch.conv(blocks["Mixed_6c"])))[:, :7]
    expected = expected.movedim(1, -1)  # TensorFlow's order, in which ADM's statistics are
    assert torch.allclose(found.spatial.view(3, 17, 17, 7), expected, rtol=1e-5, atol=1e-6)
    assert float(found.spatial.std()) > 0


def test_features_are_float32_and_do_not_depend_on_the_batch(fidelity, weights, monkeypatch):
    extractor, pixels = InceptionExtractor(weights), images(5, 1)
    whole = extractor(pixels)
    with torch.autocast("cpu", torch.bfloat16):
        inside = extractor(pixels)
    monkeypatch.setattr("overtone.metrics.inception.BLOCK", 2)
    for one, other, split in zip(whole, inside, extractor(pixels), strict=True):
        assert one.dtype == torch.float32
        assert torch.equal(one, other)
        torch.testing.assert_close(split, one, rtol=1e-4, atol=1e-4)
    with pytest.raises(OvertoneError, match="not 2 channels"):
        extractor(pixels[:, :2])


def test_files_that_hold_no_weights_are_told_apart(fidelity, weights, tmp_path):
    (tmp_path / "page.pth").write_text("<!DOCTYPE html><html></html>")
    (tmp_path / "cut.pth").write_bytes(weights.read_bytes()[:100_000])
    torch.save({"fc.weight": torch.zeros(1).expand(10**6, 10**5)}, tmp_path / "wide.pth")
    for name, said in (("page", "a web page: download"), ("cut", "damaged"), ("wide", "storage")):
        with pytest.raises(OvertoneError, match=said) as refused:
            InceptionExtractor(tmp_path / f"{name}.pth")
        assert "\n" not in str(refused.value)


def adm_evaluator(real, fake):
    """What ADM's evaluator computes of two sets of (features, spatial features, class scores),
    written again from its description: the Fréchet distances by the matrix square root, the
    Inception Score over splits of 5,000, precision and recall within third neighbours."""
    import scipy.linalg

    def frechet(a, b):
        means, covariances = (a.mean(0), b.mean(0)), (np.cov(a.T), np.cov(b.T))
        root = scipy.linalg.sqrtm(covariances[0] @ covariances[1])
        spread = np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * np.trace(root.real)
        return ((means[0] - means[1]) ** 2).sum() + spread

    def radii(points):
        away = np.linalg.norm(points[:, None] - points[None], axis=2)
        return np.sort(away, axis=1)[:, 3]  # the first is itself

    def within(points, others):
        away = np.linalg.norm(points[:, None] - others[None], axis=2)
        return (away <= radii(others)[None]).any(axis=1).mean()

    scores = []
    for start in range(0, len(fake[2]), 5000):
        p = scipy.special.softmax(fake[2][start : start + 5000], axis=1)
        scores.append(np.exp((p * (np.log(p) - np.log(p.mean(0)))).sum(1).mean()))
    return {
        "frechet_distance": frechet(real[0], fake[0]),
        "spatial_frechet_distance": frechet(real[1], fake[1]),
        "inception_score": np.mean(scores),
        "precision": within(fake[0], real[0]),
        "recall": within(real[0], fake[0]),
    }


def test_scores_are_those_of_adms_evaluator():
    """On features of 5,200 images, so that the Inception Score has two splits."""
    from overtone.data import ArrayData
    from overtone.metrics import Evaluation
    from overtone.metrics.features import Extractor, Features

    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(64, n, generator=generator) / 2 for n in (6, 10, 5)]

    class Linear(Extractor):
        name, digest, dims = "linear", "l", 6

        def __call__(self, pixels):
            x = pixels.flatten(1).float() / 128 - 1
            return Features(x @ maps[0], x @ maps[2], x @ maps[1])

    real, fake = (
        np.random.RandomState(n).randint(0, 256 - 30 * n, (count, 1, 8, 8), np.uint8)
        for n, count in ((0, 300), (1, 5200))
    )
    report = Evaluation(Linear(), ArrayData("real", real), replicates=4)(
        [(torch.from_numpy(fake), None)], {}
    )
    features = [
        [tensor.double().numpy() for tensor in (f.vectors, f.spatial, f.logits)]
        for f in (Linear()(torch.from_numpy(pixels)) for pixels in (real, fake))
    ]
    for name, value in adm_evaluator(*features).items():
        assert report.value(name) == pytest.approx(value, rel=1e-4), name
