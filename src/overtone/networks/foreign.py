"""A network of diffusers among ours."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from overtone import storage
from overtone.errors import OvertoneError
from overtone.networks.bounds import check_floats, check_numbers, within
from overtone.networks.configs.foreign import DiffusersConfig, check_sizes, foreign_config
from overtone.networks.layers import Features
from overtone.networks.network import ClassTable, Network, Spot
from overtone.registry import said


def variant_of(folder: Path) -> str | None:
    """What sets the files of weights in a directory of diffusers' apart, "fp16" say; None for the
    usual ones. Raises `OvertoneError` for several sets of which none is the usual one."""
    matches = (_WEIGHTS.fullmatch(file.name) for file in folder.glob("*.safetensors"))
    found = {match["variant"] for match in matches if match}
    if not found or None in found:
        return None
    if len(found) > 1:
        raise OvertoneError(
            f"{folder} holds weights in {len(found)} variants, {', '.join(sorted(found))}, and none"
            " without a name: keep the files of one."
        )
    return found.pop()


# As model.safetensors, .fp16.safetensors, or in shards -00001-of-00002 and .fp16-00001-of-00002.
_WEIGHTS = re.compile(
    r"diffusion_pytorch_model(?:\.(?P<variant>[A-Za-z0-9_]+))?(?:-\d+-of-\d+)?\.safetensors"
)


def load_model(kind: Any, folder: Path) -> Any:
    """A model of a class of diffusers', from the JSON and the safetensors in a directory.

    Nothing larger than its weights is built. Raises `OvertoneError` for whatever is wrong with it.
    """
    import diffusers

    variant = variant_of(folder)
    given: dict[str, storage.Stored] = {}
    for file in sorted(folder.glob("*.safetensors")):
        match = _WEIGHTS.fullmatch(file.name)
        if match and match["variant"] == variant:
            given |= storage.stored_tensors(file)
    config = storage.read_json(folder / "config.json", dict)
    named = str(config.get("_class_name", ""))
    if named and getattr(diffusers, named, None) is not kind:
        raise OvertoneError(f"{folder}/config.json is of a {named:.80}, which is not asked for.")
    for file in folder.glob("*.json"):  # diffusers reads the index of shards, without bounds
        storage.read_json(file, dict)
    where = str(folder)
    try:
        check_sizes(config)
        with quietly(), within(given, where):
            with torch.device("meta"):
                kind.from_config(config)
            model, found = kind.from_pretrained(
                folder, use_safetensors=True, output_loading_info=True, variant=variant
            )
    except OvertoneError:
        raise
    except Exception as error:  # a broken file makes diffusers raise almost anything
        raise OvertoneError(f"{where}: diffusers can't load it ({said(error)}).") from None
    if surplus := sorted(found["unexpected_keys"]):
        raise OvertoneError(
            f"{where}: config.json has no place for {len(surplus)} of the weights, such as"
            f" {surplus[0]}: the two do not belong together."
        )
    if missing := sorted(found["missing_keys"]):
        raise OvertoneError(
            f"{where}: the weights lack {len(missing)} tensors, such as {missing[0]}: copy or"
            " download them again."
        )
    check_floats(model.state_dict(), given, where)
    check_numbers(model.state_dict(), where)
    return model


@contextmanager
def quietly() -> Iterator[None]:
    """Without diffusers' own lines about files that are missing, which errors here say."""
    from diffusers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        logging.set_verbosity(before)


class DiffusersNetwork(Network):
    """A model of diffusers, called as our networks are.

    `conditioning` (encoder_hidden_states, say) goes to every call of the model.
    """

    config_class = DiffusersConfig
    config: DiffusersConfig

    def __init__(
        self,
        config: DiffusersConfig,
        model: nn.Module,
        conditioning: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(config)
        self.model = model
        self.conditioning = dict(conditioning or {})

    @classmethod
    def of(cls, model: Any, null_class: bool | None = None, **conditioning: Any) -> Self:
        """Around a model that is there; arguments as for `foreign_config`."""
        return cls(foreign_config(model, null_class), model, conditioning)

    def forward(
        self,
        x: Features,
        time: Float[Tensor, " batch"],
        class_labels: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch out_channels height width"]:
        more = dict(self.conditioning)
        if self.config.num_classes:
            if class_labels is None and not self.config.null_class:
                raise OvertoneError(
                    f"{type(self.model).__name__} was trained with classes and has none for"
                    " 'no class': pass class labels, and no guidance."
                )
            if class_labels is None:
                class_labels = torch.full((len(x),), self.config.num_classes, device=x.device)
            more["class_labels"] = class_labels
        dtype = next(self.model.parameters()).dtype
        return self.model(x.to(dtype), time, **more, return_dict=False)[0]

    def class_tables(self) -> Iterator[ClassTable]:
        for name, _ in self.named_parameters():
            if name.endswith(("model.class_embedding.weight", ".embedding_table.weight")):
                yield ClassTable(name)

    def output_tensors(self) -> Mapping[str, int]:
        names = {"conv_out": 1, "proj_out_2": self.config.model.get("patch_size") or 1}
        return {
            f"model.{name}.{kind}": groups**2
            for name, groups in names.items()
            for kind in ("weight", "bias")
        }

    @property
    def ends_alone(self) -> bool:
        # After Fourier features diffusers divides by every time.
        return self.config.model.get("time_embedding_type") != "fourier"

    def temporal_spots(self) -> Iterator[Spot]:
        model: Any = self.model
        for block in (
            *getattr(model, "down_blocks", ()),
            getattr(model, "mid_block", None),
            *getattr(model, "up_blocks", ()),
        ):
            if block is None:
                continue
            if hasattr(block, "skip_conv"):
                raise ValueError(
                    f"diffusers' {type(block).__name__} can't be given temporal layers"
                )
            middle = block is model.mid_block
            attentions = getattr(block, "attentions", None)
            for number in range(1 if middle else len(block.resnets)):
                attends = attentions is not None and attentions[number] is not None
                parent: Any = attentions if attends else block.resnets
                yield Spot(parent, number, block.resnets[number].out_channels)
