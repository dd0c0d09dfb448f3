"""Mask files, `load` and many tasks over one base: the run's own answers, or a clear refusal."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from smpcli import UserError, load, predict
from smpcli.evaluation.recompute import reopen
from smpcli.export import many
from smpcli.export.many import SharedBase
from smpcli.runs.maskcode import CODES
from smpcli.runs.maskfile import compress, read_described, write_described

MakeRun = Callable[..., Path]
Export = Callable[..., Any]
TEXTS = ["a good film", "a terrible film", "great", "the story is dull and awful"]


@pytest.fixture(scope="session")
def masks(finished: MakeRun, export_here: Export, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """masks("bert", …) is the mask file of finished("bert", …)."""
    made: dict[Path, Path] = {}

    def get(*args: Any, **settings: Any) -> Path:
        run = finished(*args, **settings)
        if run not in made:
            made[run] = export_here(run, "mask", output=tmp_path_factory.mktemp("masks") / f"{run.name}.smpmask").path
        return made[run]

    return get


def logits_of(run: Path) -> torch.Tensor:
    """By the run's own model, without `Ready`."""
    opened = reopen(run)
    inputs = opened.tokenizer(TEXTS, padding=True, truncation=True, max_length=24, return_tensors="pt")
    with torch.no_grad():
        logits: torch.Tensor = opened.model(**inputs)
    return logits


RUNS = [("bert", "csv"), ("bert-mlm", "words"), ("roberta", "words"), ("distilbert", "csv"), ("bert", "scores")]


@pytest.mark.parametrize(("model", "task"), RUNS)
def test_run_mask_and_folder_load_to_the_same_model(
    finished: MakeRun, masks: Callable[..., Path], export_here: Export, tmp_path: Path, model: str, task: str
) -> None:
    run = finished(model, task)
    expected = logits_of(run)
    assert expected.std() > 1e-3
    folder = export_here(run, "hf", output=tmp_path / "folder").path
    for place in (run, masks(model, task), str(folder)):
        ready = load(place)
        assert isinstance(ready, torch.nn.Module) and not ready.training
        assert torch.allclose(ready.logits(TEXTS), expected, atol=1e-5)
        for text, answer, row in zip(TEXTS, ready.predict(TEXTS), expected, strict=True):
            if task == "scores":
                assert answer == {"value": pytest.approx(float(row[0]), abs=1e-5)}, text
                continue
            shares = torch.exp(row.double()) / torch.exp(row.double()).sum()
            assert list(answer["scores"]) == ["negative", "positive"]
            assert list(answer["scores"].values()) == pytest.approx(shares.tolist(), abs=1e-5)
            assert answer["label"] == ("positive" if row[1] > row[0] else "negative")
            assert answer["score"] == max(answer["scores"].values())


def test_the_file_is_near_the_entropy_and_says_what_it_is(finished: MakeRun, masks: Callable[..., Path]) -> None:
    with safe_open(masks(), framework="numpy") as file:
        about = json.loads(file.metadata()["smp"])
        names = set(file.keys())
    run = finished()
    assert (about["format"], about["version"]) == ("smp-task", 2)
    assert about["labels"] == ["negative", "positive"]
    result = json.loads((run / "result.json").read_text())
    assert about["base_digest"] == result["model"]["digest"] and about["model"] == result["run"]["model"]
    assert names == set(about["shapes"]) | set(load_file(run / "head.safetensors"))
    assert about["codes"].keys() <= about["shapes"].keys()


def test_the_code_in_the_documentation_reads_it(
    masks: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A larger mask than pico's, so that every code is there; the pico file as smp wrote it."""
    page = Path(__file__).parents[3] / "docs" / "exports.md"
    text = page.read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(import json, math, zlib.*?)^```$", text, re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    random = torch.Generator().manual_seed(0)
    made = {
        f"{density} {number}": torch.rand(200, 300, generator=random) < density * torch.rand(200, 1, generator=random)
        for density in (0.06, 0.9, 1.0, 1.9)
        for number in (0, 1)
    }
    made |= {f"{name} turned": mask.T.contiguous() for name, mask in made.items()}
    made |= {f"{name} pruned": ~mask for name, mask in made.items()}
    payloads, shapes, codes = compress(made)
    assert set(codes.values()) | {"packed"} == set(CODES)
    write_described(tmp_path / "task.smpmask", payloads, {"shapes": shapes, "codes": codes})
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["masks"].keys() == made.keys()
    assert all(np.array_equal(names["masks"][name], made[name].numpy()) for name in made)
    shutil.copy(masks(), tmp_path / "task.smpmask")
    exec(code, names)
    expected = read_described(masks(), "smp-task", 2)[0]
    assert names["masks"].keys() == expected.keys()
    assert all(np.array_equal(names["masks"][name], expected[name].numpy()) for name in expected)


def rewrite(path: Path, target: Path, change: Callable[[dict[str, Any], dict[str, torch.Tensor]], None]) -> Path:
    """A copy of a mask file with something changed in it."""
    with safe_open(path, framework="pt") as file:
        about = json.loads(file.metadata()["smp"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    change(about, tensors)
    save_file(tensors, target, {"smp": json.dumps(about)})
    return target


def claim(about: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    about["shapes"] = {name: [10**6, 10**6] for name in about["shapes"]}


QUERY = "bert.encoder.layer.0.attention.self.query"
CHANGES: list[tuple[str, Callable[[dict[str, Any], dict[str, torch.Tensor]], Any], str]] = [
    ("claims 10^12 weights", claim, "doesn't fit its"),
    ("another format", lambda about, _: about.update(format="smp-mask"), "nor an export of smp"),
    ("an older version", lambda about, _: about.update(version=1), "export it again with `smp export RUN --format"),
    ("one label", lambda about, _: about.update(labels=["one"]), "labels don't fit"),
    ("a label twice", lambda about, _: about.update(labels=["one", "one"]), "labels don't fit"),
    ("three labels for two rows", lambda about, _: about.update(labels=["a", "b", "c"]), "classifier"),
    ("no model", lambda about, _: about.pop("model"), "model: Field required"),
    ("a number for a name", lambda about, _: about.update(task=3), "task"),
    ("an odd code", lambda about, _: about["codes"].update({QUERY: "zip"}), "not one of packed"),
    ("codes of others", lambda about, _: about["codes"].update(strange="gaps"), "codes are of other matrices"),
    ("codes as a list", lambda about, _: about.update(codes=[1]), "codes are of other matrices"),
    ("no head", lambda _, tensors: tensors.pop("classifier.weight"), "lacks classifier.weight"),
    (
        "a matrix less",
        lambda about, tensors: (about["shapes"].pop(QUERY), about["codes"].pop(QUERY, 0), tensors.pop(QUERY)),
        "mask doesn't fit the base model",
    ),
    ("another base", lambda about, _: about.update(base_digest="0" * 64), "differ from those that"),
]


@pytest.mark.parametrize(("change", "reason"), [case[1:] for case in CHANGES], ids=[case[0] for case in CHANGES])
def test_a_changed_file_is_refused(
    masks: Callable[..., Path], tmp_path: Path, change: Callable[..., None], reason: str
) -> None:
    path = rewrite(masks(), tmp_path / "changed.smpmask", change)
    with pytest.raises(UserError, match=f"(?s){reason}") as error:
        load(path)
    assert "\n" not in str(error.value) and len(str(error.value)) <= 400


def test_another_base_model_is_refused(
    masks: Callable[..., Path], pico: Callable[[str], Path], tmp_path: Path
) -> None:
    """The same folder elsewhere is taken; with one weight changed it is not."""
    moved = shutil.copytree(pico("bert"), tmp_path / "moved")
    assert torch.equal(load(masks(), model=str(moved)).logits(TEXTS), load(masks()).logits(TEXTS))
    weights = load_file(moved / "model.safetensors")
    weights["embeddings.word_embeddings.weight"][7, 7] += 1e-6
    save_file(weights, moved / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match="the same version of the base model"):
        load(masks(), model=str(moved))
    with pytest.raises(UserError, match="the same version of the base model"):
        SharedBase([masks(), masks("bert", "csv", 0.5)], str(moved))


def test_what_is_no_export_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.smpmask").write_text("hello")
    for name, reason in (("none", "there is no"), ("", "neither"), ("text.smpmask", "neither")):
        with pytest.raises(UserError, match=reason):
            load(tmp_path / name)


@pytest.fixture
def three(masks: Callable[..., Path], sentiment: Any, tmp_path: Path) -> list[Path]:
    """Three tasks over pico BERT: two labels at two sparsities, and a regression."""
    return [masks("bert", "csv", 0.8), masks("bert", "scores"), masks("bert", "csv", 0.5)]


@pytest.mark.parametrize("readable", [True, False], ids=["base from its file", "base in memory"])
def test_switching_gives_what_each_file_alone_gives(
    three: list[Path], monkeypatch: pytest.MonkeyPatch, readable: bool
) -> None:
    if not readable:
        monkeypatch.setattr(many, "weights_file", lambda name: None)
    base = SharedBase(three)
    assert (base.base._file is not None) == readable
    alone = [load(path).logits(TEXTS) for path in three]
    assert not torch.equal(alone[0], alone[2])
    for index in (0, 1, 2, 1, 0, 0, 2):
        assert torch.equal(base.use(index).logits(TEXTS), alone[index])
    # One model: what the tasks hold beside it is a bit a weight.
    assert all(task.ready.model is base.model for task in base.tasks)
    weights = sum(math.prod(matrix.module.weight.shape) for matrix in base.matrices)
    assert all(sum(bits.nbytes for bits in task.bits) == weights // 8 for task in base.tasks)


def test_label_words_switch_too(masks: Callable[..., Path], tmp_path: Path) -> None:
    """The same model read at other words, in another order."""

    def turn(about: dict[str, Any], _: Any) -> None:
        about["word_ids"].reverse()

    first = masks("bert-mlm", "words")
    second = rewrite(first, tmp_path / "turned.smpmask", turn)
    base = SharedBase([first, second])
    expected = base.use(0).logits(TEXTS)
    assert torch.equal(base.use(1).logits(TEXTS), expected.flip(1))
    assert torch.equal(base.use(0).logits(TEXTS), expected)


def test_masks_of_different_bases_share_nothing(masks: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match="over another base model"):
        SharedBase([masks(), masks("distilbert", "csv")])


def test_predictions_come_by_text_then_by_task(three: list[Path]) -> None:
    # More than one chunk, so that tasks have their turn more than once.
    texts = [f"{text} number {number}" for number in range(70) for text in TEXTS]
    rows = list(predict(*three, texts=iter(texts)))
    assert [row["text"] for row in rows] == [text for text in texts for _ in three]
    assert [row["mask"] for row in rows] == [str(path) for path in three] * len(texts)
    alone = [load(path).predict(texts) for path in three]
    for number, row in enumerate(rows):
        expected = alone[number % 3][number // 3]
        key = "value" if "value" in expected else "score"
        assert row[key] == pytest.approx(expected[key], abs=1e-5) and row.get("label") == expected.get("label")


def test_decoding_is_whole_array_arithmetic(masks: Callable[..., Path]) -> None:
    """A mask of 2.4 million weights decodes without a Python step a weight: a bound that only a loop breaks."""
    from smpcli.runs.maskcode import decode, encode

    mask = np.random.default_rng(0).random((3072, 768)) < 0.1
    code, payload = encode(mask)
    import sys

    calls = 0

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1

    sys.setprofile(count)
    try:
        decode(code, payload, mask.shape)
    finally:
        sys.setprofile(None)
    assert calls < 1000
