"""Whether a checkpoint holds the tensors that a model asks for: nothing but its head may be newly made."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from smpcli.errors import UserError, one_line
from smpcli.modeling.layers import find_prunable

# What tools leave in the names of tensors: pattern -> what it is, and the way to plain weights.
TRACES = {
    r"(^|\.)module\.": ("DataParallel or DistributedDataParallel", "save model.module instead of model"),
    r"(^|\.)_orig_mod\.": ("torch.compile", "save model._orig_mod instead of model"),
    r"(^|\.)_fsdp_wrapped_module\.": ("FullyShardedDataParallel", "save its full state dict without the wrapper"),
    r"(^|\.)_checkpoint_wrapped_module\.": ("torch's checkpoint_wrapper", "save the model without the wrapper"),
    r"(^|\.)base_model\.model\.|\.base_layer\.|\.lora_[AB]\.": ("PEFT", "save model.merge_and_unload()"),
    r"_(orig|mask)$": ("torch.nn.utils.prune", "call prune.remove on each module before saving"),
    r"\.parametrizations\.": ("torch.nn.utils.parametrize", "call remove_parametrizations before saving"),
}
# What an encoder taken from an encoder with a decoder has no use for.
CROSS = re.compile(r"cross_?att|encoder_attn|encdecattention", re.IGNORECASE)
SHOWN = 100


@dataclass(frozen=True)
class NewlyMade:
    """Parameters that the checkpoint doesn't hold, by name; `reshaped` are those that it holds in another shape."""

    names: set[str]
    reshaped: set[str]


def newly_made(model: Any, info: Mapping[str, Any], stored: Mapping[str, Sequence[int]], name: str) -> NewlyMade:
    """What `from_pretrained` had to initialise: of the output head, and a pooler of which the checkpoint has nothing.

    info: its loading info; stored: shapes of the checkpoint's tensors. Raises UserError for any other tensor that is
    missing or has another shape, and for one inside the blocks that the model has no place for.
    """
    reshaped = {key: (tuple(found), tuple(wanted)) for key, found, wanted in info["mismatched_keys"]}
    parameters = {key: tuple(parameter.shape) for key, parameter in model.named_parameters(remove_duplicate=False)}
    # A buffer is computed from the configuration, not drawn.
    missing = {key for key in info["missing_keys"] if key in parameters}
    new = NewlyMade(missing | reshaped.keys(), set(reshaped))
    in_base = [
        key for key in parameters if model.base_model is model or key.startswith(f"{model.base_model_prefix}.")
    ]
    pooler = {key for key in in_base if "pooler" in key.split(".")}
    if pooler <= missing:
        missing -= pooler
    for key in in_base:
        if key in reshaped:
            found, wanted = reshaped[key]
            raise _misfit(name, f"{_short(key)} has the shape {found} in them and {wanted} by its config.json", ())
    if lost := [key for key in in_base if key in missing]:
        raise _misfit(
            name, _lacking(lost, parameters[lost[0]], info["unexpected_keys"], model), info["unexpected_keys"]
        )
    if strange := _without_a_place(model, info["unexpected_keys"], stored):
        count = f" and {len(strange) - 1} more" if len(strange) > 1 else ""
        raise _misfit(
            name,
            f"they hold {_short(strange[0])}{count}, for which type '{model.config.model_type}', as config.json "
            "describes it, has no place, so another model would be computed",
            strange,
        )
    return new


def _misfit(name: str, what: str, strange: Collection[str]) -> UserError:
    remedy = "take the config.json that belongs to them, or save the model again with save_pretrained"
    for pattern, (tool, way) in TRACES.items():
        if traces := [match[0] for key in strange if (match := re.search(pattern, key))]:
            remedy = f"'{min(traces).strip('.')}' is of {tool}: {way}"
            break
    return UserError(f"the weights in {one_line(name, SHOWN)} don't fit its config.json: {what}", remedy)


def _lacking(lost: list[str], shape: tuple[int, ...], unexpected: Collection[str], model: Any) -> str:
    """What is missing, and what lies in its place: the same name behind a prefix, or another in the same module."""
    count = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
    said = f"they lack {_short(lost[0])} of shape {shape}{count}"
    bare = lost[0].removeprefix(f"{model.base_model_prefix}.")
    parent = bare.rpartition(".")[0]
    same = sorted(key for key in unexpected if key.endswith(f".{bare}"))
    near = sorted(key for key in unexpected if parent and parent in key)
    inside = sorted(key for key in unexpected if key.startswith(f"{model.base_model_prefix}."))
    for found in (same, near, inside):
        if found:
            return f"{said}, and hold {_short(found[0])} in its place"
    return said


def _without_a_place(model: Any, unexpected: Collection[str], stored: Mapping[str, Sequence[int]]) -> list[str]:
    """Unexpected parameters of the blocks: further blocks, or parts that this model type doesn't compute."""
    first = find_prunable(model, model.config)[0]
    stack = first.name.removesuffix(f".{first.kind}").rpartition(".")[0]
    found = sorted(
        key for key in unexpected if re.match(rf"{re.escape(stack)}\.\d+\.", key) and not CROSS.search(key)
    )
    return [key for key in found if _is_parameter(key, stored)]


def _is_parameter(key: str, stored: Mapping[str, Sequence[int]]) -> bool:
    """Vectors and matrices; what older releases stored of attention masks is a scalar, or has four dimensions."""
    # A checkpoint of the bare encoder lacks the prefix that the model's names have.
    shape = next((shape for name, shape in stored.items() if key == name or key.endswith(f".{name}")), None)
    return shape is not None and len(shape) in (1, 2, 3) and not key.endswith("inv_freq")


def _short(key: str) -> str:
    return one_line(key, SHOWN)


def merge_pruned(tensors: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """The tensors with each pair of torch.nn.utils.prune, NAME_orig and NAME_mask, as their product NAME.

    None where there is no pair.
    """
    pairs = [key.removesuffix("_orig") for key in tensors if key.endswith("_orig")]
    pairs = [key for key in pairs if f"{key}_mask" in tensors and key not in tensors]
    pairs = [key for key in pairs if tensors[f"{key}_mask"].shape == tensors[f"{key}_orig"].shape]
    if not pairs:
        return None
    merged = {key: tensors[f"{key}_orig"] * tensors[f"{key}_mask"] for key in pairs}
    gone = {f"{key}{part}" for key in pairs for part in ("_orig", "_mask")}
    return {key: tensor for key, tensor in tensors.items() if key not in gone} | merged


def refuse_infinite(tensors: Mapping[str, Tensor], where: str) -> None:
    """Raises UserError for a tensor with NaN or infinite numbers, by its name. where: what holds them."""
    for key, tensor in tensors.items():
        # The sum of finite numbers may overflow, so it only acquits.
        if tensor.is_meta or not tensor.is_floating_point() or torch.isfinite(tensor.detach().sum()):
            continue
        if bad := int((~tensor.detach().isfinite()).sum()):
            raise UserError(
                f"{where}: {_short(key)} holds NaN or infinity ({bad:,} of {tensor.numel():,} numbers, read as "
                f"{str(tensor.dtype).removeprefix('torch.')})",
                "take weights that were saved before that happened",
            )


def shapes_of(files: Collection[Path]) -> dict[str, list[int]]:
    """Names and shapes of all tensors in safetensors files, without reading the tensors."""
    from safetensors import safe_open

    found: dict[str, list[int]] = {}
    for path in files:
        with safe_open(path, framework="pt") as file:
            found |= {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118
    return found
