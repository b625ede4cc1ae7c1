"""What the site gets beside its pages: the notebooks as pages, with their outputs; and, with
OVERTONE_LIVE=1, as `make site` has it, the model that runs in the browser, and what runs it.
"""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
MODEL = ROOT / "models" / "dsno-digits"
RUNTIME = "onnxruntime-web@1.30.0"
FILES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
SEEDS = 16


def on_files(files: Any, config: Any, **_: Any) -> Any:
    """Each notebook as a page, notebooks/NAME.md, and its pictures beside it."""
    import nbformat
    from mkdocs.structure.files import File

    for file in sorted((ROOT / "examples" / "notebooks").glob("*.ipynb")):
        pictures: dict[str, bytes] = {}
        notebook = nbformat.read(file, as_version=4)
        parts = [part for cell in notebook.cells for part in _cell(cell, file.stem, pictures)]
        page = "\n\n".join([*parts, f"(This page is `examples/notebooks/{file.name}`.)"])
        files.append(File.generated(config, f"notebooks/{file.stem}.md", content=page))
        for name, content in pictures.items():
            files.append(File.generated(config, f"notebooks/{name}", content=content))
    return files


def _cell(cell: Any, stem: str, pictures: dict[str, bytes]) -> Iterator[str]:
    """A cell as Markdown, its outputs included; `pictures` takes those by their file names."""
    yield cell.source if cell.cell_type == "markdown" else f"```python\n{cell.source}\n```"
    for output in cell.get("outputs", ()):
        data = output.get("data", {})
        if "image/png" in data:
            name = f"{stem}-{len(pictures)}.png"
            pictures[name] = base64.b64decode(data["image/png"])
            yield f"![What the code above shows]({name})"
        elif text := str(output.get("text") or data.get("text/plain", "")).strip():
            yield f"```text\n{text}\n```"


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
