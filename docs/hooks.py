"""What the site gets beside its pages: the model that runs in the browser, and what runs it.

With OVERTONE_LIVE=1, as `make site` has it, mkdocs calls this when the pages are written.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
MODEL = ROOT / "models" / "dsno-digits"
RUNTIME = "onnxruntime-web@1.30.0"
FILES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
SEEDS = 16


def on_post_build(config: Any, **_: Any) -> None:
    if os.environ.get("OVERTONE_LIVE"):
        write_live(Path(config["site_dir"]) / "live")


def write_live(folder: Path) -> None:
    """The operator as ONNX, the noise of some seeds, and onnxruntime-web, into a directory."""
    import torch

    from overtone import load_pipeline
    from overtone.pipelines.export import export
    from overtone.processes import SeededNoise

    pipe = load_pipeline(MODEL)
    with tempfile.TemporaryDirectory() as temporary:
        exported = Path(temporary) / "exported"
        export(pipe, exported, ("onnx",), whole=True)
        for name in ("operator.onnx", "model.json"):
            shutil.copy(exported / name, folder / name)
        _runtime_into(folder, Path(temporary))
    config = pipe.network.config
    like = torch.empty(SEEDS, config.channels, config.resolution, config.resolution)
    noise = pipe.process.noise(like, SeededNoise(range(SEEDS)))
    (folder / "noise.bin").write_bytes(noise.numpy().astype("<f4").tobytes())


def _runtime_into(folder: Path, temporary: Path) -> None:
    """onnxruntime-web from npm, without its other builds."""
    subprocess.run(["npm", "pack", "-s", RUNTIME], cwd=temporary, check=True, capture_output=True)
    with tarfile.open(next(temporary.glob("*.tgz"))) as archive:
        for name in FILES:
            found = archive.extractfile(f"package/dist/{name}")
            assert found is not None
            (folder / name).write_bytes(found.read())
