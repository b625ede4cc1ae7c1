"""What a user waits for: start-up, the way from the return key to the images, and memory. Each is
measured on processes of their own, in turns."""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from overtone.bench.compare import OWN, Asked, Line

ROUNDS = 3
IMAGES, CALLS, SIDE = 64, 10, 32
"""of the way to the images: how many, and the evaluations that each takes"""

IMPORTS = {
    OWN: "import overtone; overtone.load_pipeline",
    "diffusers": "from diffusers import DDPMPipeline",
    "denoising-diffusion-pytorch": "from denoising_diffusion_pytorch import GaussianDiffusion",
    "smalldiffusion": "from smalldiffusion import samples",
    "azula": "import azula.sample, azula.nn.unet",
}

SCRIPTS = {
    "diffusers": """
from diffusers import DDIMScheduler, DDPMPipeline
import torch
pipe = DDPMPipeline.from_pretrained({model!r})
pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
pipe.set_progress_bar_config(disable=True)
from diffusers import DDIMPipeline
pipe = DDIMPipeline(pipe.unet, pipe.scheduler)
pipe.set_progress_bar_config(disable=True)
images = pipe({count}, num_inference_steps={calls}, generator=torch.manual_seed(0)).images
for number, image in enumerate(images):
    image.save(f"{out}/{{number}}.png")
""",
    "denoising-diffusion-pytorch": """
import torch
from denoising_diffusion_pytorch import GaussianDiffusion, Unet
from PIL import Image
net = Unet(dim={width}, dim_mults=(1, 2, 2), full_attn=(False, True, False))
model = GaussianDiffusion(net, image_size={side}, sampling_timesteps={calls})
net.load_state_dict(torch.load({model!r} + "/net.pt"))
images = (255 * model.sample(batch_size={count})).byte().permute(0, 2, 3, 1).numpy()
for number, image in enumerate(images):
    Image.fromarray(image).save(f"{out}/{{number}}.png")
""",
    "smalldiffusion": """
import torch
from PIL import Image
from smalldiffusion import ScheduleDDPM, Unet, samples
net = Unet({side}, 3, 3, ch={width}, ch_mult=(1, 1, 1), dropout=0.0)
net.load_state_dict(torch.load({model!r} + "/net.pt"))
net.eval()
*_, x = samples(net, ScheduleDDPM(1000).sample_sigmas({calls}), batchsize={count})
images = (127.5 * (x.clamp(-1, 1) + 1)).byte().permute(0, 2, 3, 1).numpy()
for number, image in enumerate(images):
    Image.fromarray(image).save(f"{out}/{{number}}.png")
""",
}


def start_up(asked: Asked) -> Iterator[Line]:
    """Processor seconds of imports, of `overtone recipes` and of every --help."""
    overtone = [sys.executable, "-m", "overtone"]
    helped = subprocess.run([*overtone, "--help"], capture_output=True, text=True, check=True)
    commands = re.findall(r"^  ([a-z]+)  +\S", helped.stdout, re.MULTILINE)
    tasks = {
        f"import, {name}": [sys.executable, "-c", code]
        for name, code in IMPORTS.items()
        if name == OWN or name in asked.peers
    }
    tasks |= {"overtone --help": [*overtone, "--help"], "overtone recipes": [*overtone, "recipes"]}
    tasks |= {f"overtone {name} --help": [*overtone, name, "--help"] for name in commands}
    for name, found in _processes(tasks).items():
        yield {"case": f"start-up, {name}"} | found


def end_to_end(asked: Asked) -> Iterator[Line]:
    """From the return key to the images of a small saved model, imports included."""
    for count, calls in ((1, CALLS), (IMAGES, CALLS)):
        with tempfile.TemporaryDirectory() as folder:
            tasks, failed = _saved(Path(folder), count, calls, asked.peers)
            found = _processes(tasks)
            own = found[OWN]
            over = {
                name: round(one["seconds"] / own["seconds"], 2)
                for name, one in found.items()
                if name != OWN and "seconds" in one
            }
            what = f"end to end, {count} of {SIDE} px, {calls} evaluations"
            told = {"failed": failed} if failed else {}
            yield {"case": what, "processes": found, "over": over} | told


def _saved(
    folder: Path, count: int, calls: int, peers: Sequence[str]
) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Models of equal multiply-adds, saved, and the command that samples from each."""
    import torch

    from overtone.bench.families import IMAGES as SHAPE
    from overtone.bench.families import UNETS
    from overtone.bench.subjects import awake, nearest, size_of
    from overtone.pipelines import Pipeline
    from overtone.registry import said
    from overtone.samplers import Sampler

    width = 64
    network: Any = awake(UNETS[OWN].build(width))
    pipe = Pipeline(network, Sampler(calls, estimate="single"))
    pipe.save_pretrained(folder / OWN)
    out = [folder / f"{name}-images" for name in (OWN, *SCRIPTS)]
    for place in out[1:]:
        place.mkdir()
    seeds = "0" if count == 1 else f"0-{count - 1}"
    tasks = {
        OWN: [sys.executable, "-m", "overtone", "sample", str(folder / OWN), "--seeds", seeds,
              "--out", str(out[0])]
    }  # fmt: skip
    failed = {}
    size = size_of(UNETS[OWN], width, SHAPE, "multiply-adds")
    for name, place in zip(SCRIPTS, out[1:], strict=True):
        if name not in peers:
            continue
        try:
            family = UNETS[name]
            chosen = nearest(family, SHAPE, "multiply-adds", size)
            model: Any = awake(family.build(chosen))
            (folder / name).mkdir()
            if name == "diffusers":
                from diffusers import DDPMPipeline, DDPMScheduler

                saved: Any = DDPMPipeline(model, DDPMScheduler())
                saved.save_pretrained(folder / name)
            else:
                torch.save(model.state_dict(), folder / name / "net.pt")
        except Exception as error:  # whatever a peer raises: the others are measured
            failed[name] = said(error)
            continue
        code = SCRIPTS[name].format(
            model=str(folder / name), out=place, count=count, calls=calls, width=chosen, side=SIDE
        )
        tasks[name] = [sys.executable, "-c", code]
    return tasks, failed


def _processes(tasks: Mapping[str, Sequence[str]]) -> dict[str, dict[str, Any]]:
    """The seconds and processor seconds of commands, medians over rounds in turns, and the most
    memory that each took; or what went wrong with it."""
    found: dict[str, list[tuple[float, float, int]]] = {name: [] for name in tasks}
    failed: dict[str, str] = {}
    for _ in range(ROUNDS + 1):  # the first fills the caches of the system
        for name, command in tasks.items():
            if name not in failed:
                try:
                    found[name].append(once(command))
                except subprocess.CalledProcessError as error:
                    last = (error.stderr or "it failed").strip().splitlines()[-1]
                    failed[name] = last
    told: dict[str, dict[str, Any]] = {name: {"failed": why} for name, why in failed.items()}
    for name, rounds in found.items():
        if name not in failed:
            seconds, processor, memory = zip(*rounds[1:], strict=True)
            told[name] = {
                "seconds": round(statistics.median(seconds), 2),
                "processor_seconds": round(statistics.median(processor), 2),
                "memory_MiB": round(max(memory) / 2**20),
            }
    return {name: told[name] for name in tasks}


_WATCHED = """
import json, resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
spent = used.ru_utime + used.ru_stime
print(json.dumps([done.returncode, spent, used.ru_maxrss, done.stderr[-500:]]))
"""


def once(command: Sequence[str]) -> tuple[float, float, int]:
    """Seconds, processor seconds and bytes of a command, which a process of its own watches: what
    Linux tells of children is of all of them."""
    began = time.perf_counter()
    watched = [sys.executable, "-S", "-c", _WATCHED, *command]
    told = subprocess.run(watched, capture_output=True, text=True, check=True, env=os.environ)
    seconds = time.perf_counter() - began
    code, processor, memory, stderr = json.loads(told.stdout)
    if code:
        raise subprocess.CalledProcessError(code, list(command), stderr=stderr)
    return seconds, processor, memory * 1024


def memory(asked: Asked) -> Iterator[Line]:
    """The most memory of a process that trains or samples, by network and batch."""
    from overtone.bench.families import FAMILIES
    from overtone.bench.subjects import nearest, size_of

    shape, width, families = FAMILIES["unet"]
    size = size_of(families[OWN], width, shape, "multiply-adds")
    for mode in ("training", "sampling"):
        for batch in asked.batches:
            found: dict[str, Any] = {}
            for name in (OWN, *(peer for peer in asked.peers if peer in families)):
                chosen = width
                if name != OWN:
                    chosen = nearest(families[name], shape, "multiply-adds", size)
                command = [sys.executable, "-m", "overtone.bench.worker", "--alone", name,
                           str(chosen), mode, str(batch)]  # fmt: skip
                try:
                    found[name] = round(once(command)[2] / 2**20)
                except subprocess.CalledProcessError as error:
                    last = (error.stderr or "").strip().splitlines() or ["it was killed"]
                    found[name] = f"failed: {last[-1]}"
            yield {"case": f"memory, unet {mode}, batch {batch}", "MiB": found}
