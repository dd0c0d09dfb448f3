"""Loading a model by name or folder, and what is said when that fails."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf

from smpcli.errors import UserError
from smpcli.modeling.backbone import (
    cannot_load,
    digest_weights,
    load_config,
    load_pretrained,
    load_tokenizer,
    model_path,
)


def test_the_embedded_model_is_a_folder_of_a_package() -> None:
    folder = Path(model_path("minilm"))
    assert (folder / "config.json").is_file()
    config = load_config("minilm", local_only=True)
    assert (config.model_type, config.num_hidden_layers, config.hidden_size) == ("bert", 6, 384)


def test_a_folder_is_itself_and_an_id_goes_to_the_hub(pico: Any) -> None:
    assert model_path(str(pico("bert"))) == str(pico("bert"))
    assert model_path("bert-base-uncased") == "bert-base-uncased"
    assert model_path("microsoft/mpnet-base") == "microsoft/mpnet-base"


@pytest.mark.parametrize("name", ["./nothing", "/nothing/here", "~/nothing-here", "a/b/c"])
def test_a_path_that_is_not_there_is_never_taken_for_an_id(name: str) -> None:
    with pytest.raises(UserError, match=f"no model folder {name}"):
        model_path(name)


def test_a_file_and_a_folder_without_a_model_are_refused(tmp_path: Path) -> None:
    (tmp_path / "model.txt").write_text("x")
    with pytest.raises(UserError, match="no model folder"):
        model_path(str(tmp_path / "model.txt"))
    with pytest.raises(UserError, match=r"holds no config\.json"):
        model_path(str(tmp_path))


def test_an_id_that_can_not_be_had_names_the_ways_out() -> None:
    for load in (load_config, load_tokenizer):
        with pytest.raises(UserError, match="can't load 'no-such-owner/no-such-model'") as caught:
            load("no-such-owner/no-such-model")
        assert "--model minilm" in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", ["config", "type", "weights"])
def test_a_damaged_folder_is_named(pico: Any, tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(pico("bert"), folder)
    config, weights = folder / "config.json", folder / "model.safetensors"
    if damage == "config":
        config.write_text("{")
    elif damage == "type":
        config.write_text(json.dumps({**json.loads(config.read_text()), "model_type": "no-such-type"}))
    else:
        weights.unlink()
    with pytest.raises(UserError, match=f"can't load the model in {folder}") as caught:
        load_pretrained(hf.AutoModel, str(folder), load_config(str(folder)))
    assert "\n" not in str(caught.value)


def test_what_the_checkpoint_does_not_hold_is_named(pico: Any) -> None:
    name = str(pico("bert"))
    model, missing = load_pretrained(hf.AutoModelForSequenceClassification, name, load_config(name))
    assert missing == {"classifier.weight", "classifier.bias"}
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    _, missing = load_pretrained(hf.AutoModel, name, load_config(name))
    assert missing == set()


def test_a_half_precision_checkpoint_is_loaded_in_single(pico: Any, tmp_path: Path) -> None:
    hf.AutoModel.from_pretrained(pico("bert"), dtype=torch.float16).save_pretrained(tmp_path)
    model, _ = load_pretrained(hf.AutoModel, str(tmp_path), load_config(str(tmp_path)))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_the_digest_is_that_of_names_shapes_and_bytes_in_order() -> None:
    a, b = np.arange(6, dtype=np.float32).reshape(2, 3), np.array([7, 8])
    expected = hashlib.sha256(b"a(2, 3)torch.float32" + a.tobytes() + b"b(2,)torch.int64" + b.tobytes()).hexdigest()
    tensors = {"b": torch.from_numpy(b), "a": torch.from_numpy(a)}
    assert digest_weights(tensors) == expected
    # However a tensor lies in memory, and in whatever order they come.
    assert digest_weights({"a": torch.from_numpy(a.T.copy()).T, "b": tensors["b"]}) == expected
    for other in ({"a": tensors["a"] + 1e-7, "b": tensors["b"]}, {"a": tensors["a"]}, {"c": tensors["a"]}):
        assert digest_weights(other) != expected
    assert digest_weights({"x": torch.tensor(1.0, dtype=torch.bfloat16)}) != digest_weights({"x": torch.tensor(1.0)})


def test_pickled_weights_are_named_as_the_reason() -> None:
    error = OSError("some/model does not appear to have a file named model.safetensors. Checkout the Hub.")
    assert "pickled ones are not opened" in str(cannot_load("some/model", error))
    assert "no network" in str(cannot_load("some/model", OSError("Couldn't reach the hub")))
