"""What Overtone is measured against: its peers, installed beside it and never into it.

Each peer goes into a folder of its own in the cache, by pip and without its dependencies, of which
it gets those that its networks and samplers need. A stand-in for torchvision, which no benchmark
calls and some peers import, is put beside them: no torchvision matches a CPU build of torch.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from overtone import storage
from overtone.errors import OvertoneError, unknown

SECONDS = 600
"""that an installation may take"""


@dataclass(frozen=True)
class Peer:
    """A library, as pip knows it."""

    name: str
    packages: tuple[str, ...]
    torchvision: bool = False
    """Whether the peer imports torchvision."""


EINOPS = "einops==0.8.2"
PEERS = {
    peer.name: peer
    for peer in (
        Peer("diffusers", ()),  # a dependency of Overtone's own
        Peer(
            "denoising-diffusion-pytorch",
            ("denoising-diffusion-pytorch==2.3.4", "ema-pytorch==0.8.3", "pytorch-fid==0.3.0",
             "scipy==1.17.1", EINOPS),
            torchvision=True,
        ),
        Peer("smalldiffusion", ("smalldiffusion==0.5.0", EINOPS), torchvision=True),
        Peer("azula", ("azula==0.11.1", EINOPS)),
        Peer(
            "k-diffusion",
            ("k-diffusion==0.1.1.post1", "torchdiffeq==0.2.5", "torchsde==0.2.6",
             "trampoline==0.1.2", "scipy==1.17.1", EINOPS),
            torchvision=True,
        ),
    )
}  # fmt: skip

STAND_IN = '''"""Stands for torchvision where it is imported and never called."""

import sys
import types


class Anything:
    """Whatever is imported from it: it can be made, and does nothing."""

    def __init__(self, *arguments, **named):
        pass

    def __call__(self, *arguments, **named):
        raise RuntimeError("this is a stand-in for torchvision, and does nothing")


class _Module(types.ModuleType):
    __path__ = []

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return Anything


for _name in ("transforms", "transforms.functional", "utils", "datasets", "models"):
    sys.modules[f"{__name__}.{_name}"] = _Module(f"{__name__}.{_name}")
for _name in ("transforms", "utils", "datasets", "models"):
    setattr(sys.modules[__name__], _name, sys.modules[f"{__name__}.{_name}"])
sys.modules[f"{__name__}.transforms"].functional = sys.modules[f"{__name__}.transforms.functional"]
'''


def chosen(names: Iterable[str]) -> list[Peer]:
    """The peers with these names. Raises `OvertoneError` for one that is not known."""
    for name in names:
        if name not in PEERS:
            raise unknown("peer", name, PEERS)
    return [PEERS[name] for name in names]


def installed(peers: Iterable[Peer]) -> Iterator[tuple[Peer, Path | OvertoneError | None]]:
    """Each peer with the folder that it was installed in, None for one that needs none, or the
    error where it can't be installed."""
    for peer in peers:
        try:
            yield peer, _folder(peer) if peer.packages else None
        except OvertoneError as error:
            yield peer, error


def _folder(peer: Peer) -> Path:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    key = hashlib.sha256(repr((peer, version, STAND_IN)).encode()).hexdigest()[:12]
    folder = storage.cache_directory() / "peers" / f"{peer.name}-{key}"
    if folder.is_dir():
        return folder
    with storage.new_directory(folder, once=True) as temporary:
        _install(peer, temporary)
        if peer.torchvision:
            (temporary / "torchvision").mkdir()
            (temporary / "torchvision" / "__init__.py").write_text(STAND_IN)
    return folder


def _install(peer: Peer, folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
               "--no-deps", "--target", str(folder), *peer.packages]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise OvertoneError(f"{peer.name} can't be installed: {error}.") from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "ERROR" in line] or ["pip failed"]
        raise OvertoneError(f"{peer.name} can't be installed: {lines[-1].removeprefix('ERROR: ')}")


def paths(folders: Mapping[str, Path | None]) -> str:
    """The folders as PYTHONPATH takes them."""
    return os.pathsep.join(str(folder) for folder in folders.values() if folder is not None)
