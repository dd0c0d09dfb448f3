"""A model folder may be a stranger's: what it claims is checked before anything is allocated or opened."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from smpcli.errors import UserError, one_line

# Far above any encoder; what a configuration counts is built one by one, or listed by name, before weights are seen.
MOST_COUNTED = 10_000
MOST_LAYERS = 1_000
INDEX_LIMIT = 50_000_000
# A model may have a head that its file lacks, and a file half the precision; more than that isn't this file's model.
SLACK_BYTES = 2**28
SLACK_TIMES = 16


def check_config(raw: dict[str, Any], name: str) -> None:
    """Refuse a config.json whose counts would make its reader build without end. Raises UserError."""
    for key, value in _whole_numbers(raw):
        if not key.startswith(("num_", "n_")):
            continue
        most = MOST_LAYERS if "layer" in key else MOST_COUNTED
        if value > most:
            raise UserError(
                f"can't load the model in {name}: its config.json claims {key} = {value}, more than {most}"
            )


def _whole_numbers(value: Any, key: str = "") -> Iterator[tuple[str, int]]:
    if isinstance(value, int):
        yield key, value
    for inner_key, inner in value.items() if isinstance(value, dict) else ():
        yield from _whole_numbers(inner, str(inner_key))


def check_weights(folder: Path, name: str, auto_class: Any, config: Any) -> None:
    """Refuse weights that can only be unpickled, that lie elsewhere, or that are too few for the configuration."""
    import torch

    files = sorted(folder.glob("*.safetensors"))
    if not files and (pickled := sorted([*folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth")])):
        raise UserError(
            f"can't load the model in {name}: its weights are in {pickled[0].name}, a pickle, which could run "
            "anything",
            "convert them to model.safetensors (transformers' save_pretrained writes it)",
        )
    _check_shards(folder, name)
    stored = sum(file.stat().st_size for file in files)
    try:
        with torch.device("meta"):
            model = auto_class.from_config(config, trust_remote_code=False)
        needed = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    except ValueError:
        return  # of a model type that has no such class, which the caller explains
    except Exception as error:
        reason = str(error).strip().split("\n")[0]
        raise UserError(f"can't load the model in {name}: its config.json describes none ({reason})") from error
    if files and needed > SLACK_TIMES * stored + SLACK_BYTES:
        raise UserError(
            f"can't load the model in {name}: its config.json describes weights of {needed:,} bytes, its files "
            f"have {stored:,}"
        )


def _check_shards(folder: Path, name: str) -> None:
    """The names in an index of shards are files of this folder."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return
    try:
        with index.open("rb") as file:
            names = set(json.loads(file.read(INDEX_LIMIT))["weight_map"].values())
        strange = sorted(str(one) for one in names if not isinstance(one, str) or Path(one).name != one)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"can't load the model in {name}: {index.name} is damaged ({type(error).__name__})") from None
    if strange:
        first = one_line(strange[0], 80)
        raise UserError(f"can't load the model in {name}: {index.name} names a file elsewhere, '{first}'")
