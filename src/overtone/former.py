"""Files of former versions, made those of this one: JSON to JSON, before they are read strictly.

0.1.0 named a pipeline's class where the parts are named now, called a preconditioning a denoiser,
and wrote a weight of the loss as a word. What needs no change is returned as it is.
"""

from __future__ import annotations

from typing import Any

from overtone.errors import unknown

PIPELINES = (
    "DSNOPipeline",
    "DiffiTPipeline",
    "ImagePipeline",
    "LatentDiffiTPipeline",
    "MEMEPipeline",
    "RelayPipeline",
)
"""The classes of 0.1.0."""

_PRECONDITIONINGS = {"EDMDenoiser": "edm", "VPDenoiser": "vp", "VEDenoiser": "ve"}
_SOLVERS = {"dpmpp": "dpmpp_2m"}


def pipeline_index(data: dict[str, Any], network: Any) -> dict[str, Any]:
    """The contents of pipeline.json, given those of its network's config.json."""
    if "pipeline" not in data:
        return data
    if data["pipeline"] not in PIPELINES:
        raise unknown("pipeline", str(data["pipeline"]), PIPELINES)
    new = {key: value for key, value in data.items() if key not in ("pipeline", "denoiser")}
    old = data.get("denoiser", {"kind": "EDMDenoiser"})
    new["preconditioning"] = preconditioning(old, network)
    process = data.get("process")
    relay = isinstance(process, dict) and process.get("kind") == "RelayProcess"
    return new | {"start": {"kind": "relay" if relay else "noise"}}


def preconditioning(old: Any, network: Any = None) -> Any:
    """What 0.1.0 called a denoiser."""
    if not isinstance(old, dict) or old.get("kind") not in (*_PRECONDITIONINGS, "SolutionOperator"):
        return old
    if old["kind"] != "SolutionOperator":
        return old | {"kind": _PRECONDITIONINGS[old["kind"]]}
    if old.get("teacher") is not None:
        return {
            "kind": "operator",
            "times": preconditioning(old["teacher"]),
            "sigma_min": old.get("sigma_min", 0.002),
        }
    config = network if isinstance(network, dict) else {}
    limits = {key: config[key] for key in ("log_snr_min", "log_snr_max") if key in config}
    schedule = {"kind": "vp_cosine"} | limits  # which the network's settings decide
    times = {"kind": "vp", "prediction": "x", "schedule": schedule, "time_scale": 1.0}
    return {"kind": "operator", "times": times}


def recipe(data: dict[str, Any]) -> dict[str, Any]:
    """A recipe file."""
    kind = data.get("kind", "diffusion")
    if kind == "distillation":
        solver = data.get("solver", "own")
        return data | {"solver": _SOLVERS.get(solver, solver)} if "solver" in data else data
    if kind != "diffusion":
        return data
    return _denoising(data) | {"kind": "denoising"}


def _denoising(data: dict[str, Any]) -> dict[str, Any]:
    new = dict(data)
    if "denoiser" in new:
        new["preconditioning"] = preconditioning(new.pop("denoiser"))
    if isinstance(new.get("weighting"), str):
        new["weighting"] = _weighting(new["weighting"], new.get("preconditioning"))
    return new


def _weighting(word: str, own: Any) -> Any:
    """The row of the table whose c_out^-2 the word meant; None if it is the recipe's own."""
    own = own if isinstance(own, dict) else {"kind": "edm"}
    if word == "edm":
        # Of networks under other preconditionings 0.1.0 took 0.5 for the data's deviation.
        return None if own.get("kind") == "edm" else {"kind": "edm"}
    if word == "eps":
        noise = own.get("kind") == "ve" or (
            own.get("kind") == "vp" and own.get("prediction", "eps") == "eps"
        )
        return None if noise else {"kind": "vp"}
    return word


def run_identity(data: dict[str, Any]) -> dict[str, Any]:
    """run.json: what a run's weights depend on. Data were named once, beside their contents, and
    what matters by rounding only was written down as well."""
    new = _denoising(data) if "denoiser" in data else dict(data)
    new.pop("data", None)
    if isinstance(new.get("training"), dict):
        left_out = ("micro_batch", "precision", "compile")
        new["training"] = {k: v for k, v in new["training"].items() if k not in left_out}
    return new


def progress(data: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint's progress.json. The best checkpoint was always that of the lowest loss once."""
    if "best_loss" not in data:
        return data
    new = {key: value for key, value in data.items() if key != "best_loss"}
    return new | {"best_by": "held-out loss", "best_value": data["best_loss"]}


def run_recipe(data: dict[str, Any]) -> dict[str, Any]:
    """The recipe of a run, which has all of its settings: of a run that was begun before images
    were held out by themselves, none are."""
    new = recipe(data)
    if new.get("kind") in ("denoising", "vae"):
        new.setdefault("held_out_share", 0.0)
    return new


def made_with(data: dict[str, Any]) -> dict[str, Any]:
    """What trajectories were made with, their weights aside."""
    if "preconditioning" in data:
        return data
    if not isinstance(data.get("denoiser"), dict):  # of a pipeline of diffusers
        return {key: data[key] for key in ("sampler", "guidance", "precision") if key in data}
    left_out = ("denoiser", "first", "vae")
    new = {key: value for key, value in data.items() if key not in left_out}
    new["preconditioning"] = preconditioning(data["denoiser"], data.get("network"))
    new["start"] = {"kind": "noise"}
    if data.get("first") is not None:
        new["start"] = {"kind": "relay", "first_stage": made_with(data["first"])}
    return new
