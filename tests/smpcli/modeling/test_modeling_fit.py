"""What a checkpoint may lack: its output head and a pooler. Everything else is refused, by key and shape."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file
from torch import Tensor

from smpcli import api
from smpcli.errors import UserError
from smpcli.modeling.backbone import check_base, load_base, load_config, load_tokenizer

State = dict[str, Tensor]
SEQUENCE, WORDS = hf.AutoModelForSequenceClassification, hf.AutoModelForMaskedLM


@pytest.fixture
def changed(pico: Any, tmp_path: Path) -> Callable[..., str]:
    """A pico model's folder with other tensors, or another configuration."""

    def make(name: str, change: Callable[[State], State] = dict, **config: Any) -> str:
        folder = tmp_path / "changed"
        shutil.copytree(pico(name), folder)
        stored = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**stored, **config}))
        tensors = {
            key: tensor.contiguous() for key, tensor in change(load_file(folder / "model.safetensors")).items()
        }
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        return str(folder)

    return make


def refused(name: str, auto_class: Any = SEQUENCE) -> str:
    """What is said of it, the same with and without reading the numbers."""
    with pytest.raises(UserError) as caught:
        load_base(auto_class, name, load_config(name))
    with pytest.raises(UserError) as outlined:
        check_base(auto_class, name, load_config(name))
    assert str(outlined.value) == str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def without(*ends: str) -> Callable[[State], State]:
    return lambda state: {key: tensor for key, tensor in state.items() if not key.endswith(ends)}


def renamed(old: str, new: str) -> Callable[[State], State]:
    return lambda state: {key.replace(old, new): tensor for key, tensor in state.items()}


@pytest.mark.parametrize("name", ["bert", "bert-mlm", "roberta", "distilbert", "electra", "albert", "modernbert"])
def test_what_is_new_is_the_head_and_nothing_else(pico: Any, name: str) -> None:
    # A slow, independent look: what is in the model but not in the file, with or without the encoder's prefix.
    folder = str(pico(name))
    loaded = load_base(SEQUENCE, folder, load_config(folder))
    prefix = f"{loaded.model.base_model_prefix}."
    stored = {key.removeprefix(prefix) for key in load_file(pico(name) / "model.safetensors")}
    absent = {key for key, _ in loaded.model.named_parameters() if key.removeprefix(prefix) not in stored}
    assert loaded.missing == absent
    assert absent and all(not key.startswith(prefix) or "pooler" in key for key in absent)


def test_positions_that_the_configuration_claims_and_the_weights_lack(changed: Any) -> None:
    said = refused(changed("bert-mlm", max_position_embeddings=64))
    assert "bert.embeddings.position_embeddings.weight has the shape (40, 32) in them and (64, 32)" in said
    assert "config.json" in said


@pytest.mark.parametrize(
    ("model", "lost", "shape"),
    [
        ("bert-mlm", "encoder.layer.1.output.LayerNorm.weight", "(32,)"),
        ("bert-mlm", "encoder.layer.0.attention.self.query.bias", "(32,)"),
        ("bert-mlm", "embeddings.word_embeddings.weight", "(74, 32)"),
        ("bert", "pooler.dense.bias", "(32,)"),  # half a pooler
        ("gpt2", "h.0.ln_1.bias", "(32,)"),
        ("roberta", "embeddings.LayerNorm.weight", "(32,)"),
    ],
)
def test_a_missing_tensor_is_named_with_its_shape(pico: Any, changed: Any, model: str, lost: str, shape: str) -> None:
    said = refused(changed(model, without(lost)))
    vocabulary = len(load_tokenizer(str(pico(model))))
    assert f"{lost} of shape {shape.replace('74', str(vocabulary))}" in said


def test_what_lies_in_its_place_is_named(changed: Any) -> None:
    said = refused(changed("bert-mlm", renamed("embeddings.LayerNorm", "embeddings.norm")))
    assert "lack bert.embeddings.LayerNorm.weight of shape (32,) and 1 more" in said
    assert "hold bert.embeddings.norm.bias in its place" in said


@pytest.mark.parametrize(
    ("old", "new", "tool", "way"),
    [
        ("bert.", "module.bert.", "DataParallel or DistributedDataParallel", "save model.module"),
        ("bert.", "_orig_mod.bert.", "torch.compile", "save model._orig_mod"),
        ("encoder.", "_orig_mod.encoder.", "torch.compile", "save model._orig_mod"),
        ("bert.", "base_model.model.bert.", "PEFT", "merge_and_unload"),
        ("query.weight", "query.weight_orig", "torch.nn.utils.prune", "prune.remove"),
        ("query.weight", "query.parametrizations.weight.original", "parametrize", "remove_parametrizations"),
        ("bert.", "student.bert.", "hold student.bert.", "save_pretrained"),
    ],
)
def test_names_tell_which_tool_wrote_them(changed: Any, old: str, new: str, tool: str, way: str) -> None:
    said = refused(changed("bert-mlm", renamed(old, new)))
    assert tool in said and way in said


def test_pairs_of_torchs_pruning_are_their_product(pico: Any, changed: Any) -> None:
    mask = torch.arange(32 * 32).view(32, 32) % 3 != 0
    key = "bert.encoder.layer.1.attention.self.query.weight"

    def pruned(state: State) -> State:
        weight = state.pop(key)
        return {**state, f"{key}_orig": weight, f"{key}_mask": mask.float()}

    name = changed("bert-mlm", pruned)
    model = load_base(SEQUENCE, name, load_config(name)).model
    weight = load_file(pico("bert-mlm") / "model.safetensors")[key]
    expected = torch.tensor(
        [
            [w if m else 0.0 for w, m in zip(*pair, strict=True)]
            for pair in zip(weight.tolist(), mask.tolist(), strict=True)
        ]
    )
    assert torch.equal(dict(model.named_parameters())[key].detach(), expected)
    assert check_base(SEQUENCE, name, load_config(name)) is not None


def test_blocks_that_the_configuration_does_not_count_are_refused(changed: Any) -> None:
    said = refused(changed("bert-mlm", num_hidden_layers=1))
    assert "bert.encoder.layer.1.attention.output.LayerNorm.bias and 15 more" in said  # 16 tensors a block


def test_a_part_of_a_block_that_is_no_longer_computed_is_refused(changed: Any) -> None:
    # transformers 5 has dropped BERT's relative positions, and says nothing.
    key = "bert.encoder.layer.0.attention.self.distance_embedding.weight"
    said = refused(changed("bert-mlm", lambda state: {**state, key: torch.zeros(79, 16)}))
    assert key in said and "type 'bert'" in said


@pytest.mark.parametrize(
    "change",
    [
        lambda state: {**state, "bert.embeddings.position_ids": torch.arange(40)[None]},
        lambda state: {
            **state,
            "bert.pooler.dense.weight": torch.zeros(32, 32),
            "bert.pooler.dense.bias": torch.zeros(32),
        },
        lambda state: {**state, "cls.seq_relationship.weight": torch.zeros(2, 32)},
        lambda state: {**state, "bert.encoder.layer.0.crossattention.self.query.weight": torch.zeros(32, 32)},
        lambda state: {**state, "bert.encoder.layer.0.attention.masked_bias": torch.tensor(-1e4)},
        renamed("bert.", ""),
        lambda state: renamed("LayerNorm.weight", "LayerNorm.gamma")(
            renamed("LayerNorm.bias", "LayerNorm.beta")(state)
        ),
    ],
    ids=["buffer", "pooler", "head", "cross-attention", "mask", "bare", "old names"],
)
def test_what_a_model_has_no_use_for_or_knows_by_older_names_is_no_reason(changed: Any, change: Any) -> None:
    name = changed("bert-mlm", change)
    loaded = load_base(SEQUENCE, name, load_config(name))
    assert {key for key in loaded.missing if "pooler" not in key} == {"classifier.weight", "classifier.bias"}
    assert load_base(WORDS, name, load_config(name)).missing <= {"cls.predictions.decoder.bias"}


def test_shards_are_one_checkpoint(pico: Any, tmp_path: Path) -> None:
    hf.AutoModelForMaskedLM.from_pretrained(pico("bert-mlm")).save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    name = str(tmp_path)
    assert load_base(WORDS, name, load_config(name)).missing == set()
    shard = next(path for path in tmp_path.glob("*.safetensors") if any("layer.1" in key for key in load_file(path)))
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    save_file(dict(list(load_file(shard).items())[:1]), shard, {"format": "pt"})
    kept = next(iter(load_file(shard)))
    index["weight_map"] = {
        key: file for key, file in index["weight_map"].items() if file != shard.name or key == kept
    }
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "they lack bert." in refused(name)


@pytest.mark.parametrize(("value", "count"), [(torch.nan, 1), (torch.inf, 2)])
def test_numbers_that_are_none_are_named_when_they_are_loaded(changed: Any, value: float, count: int) -> None:
    key = "bert.encoder.layer.1.output.dense.weight"

    def spoil(state: State) -> State:
        state[key].view(-1)[:count] = value
        return state

    name = changed("bert-mlm", spoil)
    with pytest.raises(UserError, match=rf"{key} holds NaN or infinity \({count} of 1,536 numbers") as caught:
        load_base(SEQUENCE, name, load_config(name))
    assert "diverged" not in str(caught.value)


def test_large_numbers_whose_sum_overflows_are_numbers(changed: Any) -> None:
    key = "bert.encoder.layer.1.output.dense.weight"
    name = changed("bert-mlm", lambda state: {**state, key: torch.full_like(state[key], 3e38)})
    assert load_base(SEQUENCE, name, load_config(name)).model is not None


@pytest.mark.parametrize("head", ["auto", "prototype", "classifier"])
def test_prune_and_its_dry_run_refuse_before_anything_is_made(
    changed: Any, sentiment: Any, tmp_path: Path, head: str
) -> None:
    name = changed("bert-mlm", without("layer.0.output.LayerNorm.bias"))
    for call in (api.plan, api.prune):
        with pytest.raises(UserError, match=r"lack bert.encoder.layer.0.output.LayerNorm.bias of shape \(32,\)"):
            call(sentiment.words, model=name, head=head, max_steps=1, output=tmp_path / "results")
    assert not (tmp_path / "results").exists()
