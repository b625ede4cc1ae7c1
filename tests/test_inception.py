"""Inception's features and the scores on them, against torch-fidelity itself.

torch-fidelity wants a torchvision, and none matches a CPU build of torch: `make test` puts both
beside the environment, in .venv/fid, and the operators that torchvision's own library would have
registered are declared here. The weights are random: what is compared is the computation.
"""

import re
import sys
from pathlib import Path

import pytest
import torch

from overtone.errors import OvertoneError
from overtone.metrics import InceptionExtractor, frechet_distance, kernel_distance

BESIDE = Path(sys.prefix) / "fid"


@pytest.fixture(scope="module")
def fidelity():
    try:
        import torch_fidelity
    except (ImportError, RuntimeError):
        if not BESIDE.exists():
            pytest.skip("torch-fidelity is not there: `make test` installs it")
        sys.path.append(str(BESIDE))
        source = (BESIDE / "torchvision" / "_meta_registrations.py").read_text()
        names = re.findall(r'@register_meta\("(\w+)"|register_fake\("torchvision::(\w+)"', source)
        library = torch.library.Library("torchvision", "DEF")
        for pair in names:
            library.define(f"{pair[0] or pair[1]}(Tensor input) -> Tensor")
        import torch_fidelity

        torch_fidelity.operators = library  # declared for as long as the module lives
    return torch_fidelity


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
