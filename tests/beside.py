"""Packages beside the environment, in .venv/fid, where `make test` puts them.

torch-fidelity wants a torchvision, and none matches a CPU build of torch: the operators that
torchvision's own library would have registered are declared here. transformers is imported by
diffusers where it is found, which takes seconds.
"""

import re
import sys
from pathlib import Path

import pytest
import torch

BESIDE = Path(sys.prefix) / "fid"


def fidelity():
    """torch-fidelity; the test is skipped where it is not there."""
    try:
        import torch_fidelity
    except (ImportError, RuntimeError):
        _add("torch-fidelity")
        source = (BESIDE / "torchvision" / "_meta_registrations.py").read_text()
        names = re.findall(r'@register_meta\("(\w+)"|register_fake\("torchvision::(\w+)"', source)
        library = torch.library.Library("torchvision", "DEF")
        for pair in names:
            library.define(f"{pair[0] or pair[1]}(Tensor input) -> Tensor")
        import torch_fidelity

        torch_fidelity.operators = library  # declared for as long as the module lives
    return torch_fidelity


def transformers():
    """transformers; the test is skipped where it is not there."""
    try:
        import transformers
    except ImportError:
        _add("transformers")
        fidelity()  # it looks for torchvision, which is beside it
        import transformers
    return transformers


def _add(name):
    if not BESIDE.exists():
        pytest.skip(f"{name} is not there: `make test` installs it")
    if str(BESIDE) not in sys.path:
        sys.path.append(str(BESIDE))
