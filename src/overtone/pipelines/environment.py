"""Where images are made: code, packages and hardware, as far as rounding may depend on them."""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from overtone.ranges import Threads, check_fields
from overtone.registry import Kind

if TYPE_CHECKING:
    from overtone.pipelines.pipeline import Pipeline

PACKAGES = ("torch", "numpy", "pillow", "diffusers", "safetensors")


@dataclass(frozen=True)
class Environment:
    """Where an image was made, as far as its rounding may depend on it."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    code: str = ""
    """The digest of Overtone's own files."""
    modules: dict[str, str] = field(default_factory=dict)
    """The digests of the modules that define parts of one's own."""
    versions: dict[str, str] = field(default_factory=dict)
    """The versions of packages."""
    device: str = ""
    """The kind of device."""
    hardware: str = ""
    """The processor or the GPU, and what torch uses of it."""
    threads: Threads = 0
    """The number of torch's threads."""

    def __post_init__(self) -> None:
        check_fields(self)

    def differences(self, other: Environment) -> list[str]:
        """What is not as it was, one sentence each."""
        said = []
        for what, own, its in (
            ("the digest of Overtone's code", self.code, other.code),
            ("the device", self.device, other.device),
            ("the hardware", self.hardware, other.hardware),
            ("the number of threads", self.threads, other.threads),
            *(
                (f"the version of {name}", self.versions.get(name), other.versions.get(name))
                for name in sorted({*self.versions, *other.versions})
            ),
            *(
                (
                    f"the digest of the module {name}",
                    self.modules.get(name),
                    other.modules.get(name),
                )
                for name in sorted({*self.modules, *other.modules})
            ),
        ):
            if own != its:
                said.append(f"{what} was {own or 'unknown'} and is {its or 'unknown'}")
        return said


def environment(pipe: Pipeline) -> Environment:
    """Where this process makes images with a pipeline."""
    versions = {"overtone": version_of("overtone"), "python": platform.python_version()}
    return Environment(
        code=code_digest(),
        modules=_modules(pipe),
        versions=versions | {name: version_of(name) for name in PACKAGES},
        device=pipe.device.type,
        hardware=_hardware(pipe.device),
        threads=torch.get_num_threads(),
    )


def version_of(package: str) -> str:
    """The version of an installed package, of Overtone the one that runs."""
    if package == "overtone":
        from overtone import __version__

        return __version__
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


@cache
def code_digest() -> str:
    """SHA-256 of Overtone's own files, shortened to 16 digits."""
    root = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        digest.update(file.relative_to(root).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:16]


def _modules(pipe: Pipeline) -> dict[str, str]:
    """Digests of the files in which parts are defined that are not Overtone's own."""
    parts: list[Any] = [pipe.network.config, pipe.preconditioning, pipe.process, pipe.sampler]
    found = {}
    for part in (*parts, pipe.start):
        name = part.origin if isinstance(part, Kind) else ""
        file = getattr(sys.modules.get(name), "__file__", None)
        if name and file is not None and os.path.isfile(file):
            found[name] = hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16]
    return found


def _hardware(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_processor()}, {torch.backends.cpu.get_cpu_capability()}"


@cache
def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
