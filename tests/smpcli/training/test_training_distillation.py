"""Knowledge distillation: the loss against its formula, labels by name, and what a teacher can't be."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
import yaml
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from smpcli import UserError, evaluate, export, plan, prune
from smpcli.settings import resolve
from smpcli.tasks.data import load_data
from smpcli.training import distillation
from smpcli.training.distillation import distilled_objective, divergence
from smpcli.training.teacher import match_labels

LOGITS = st.lists(st.floats(-20, 20), min_size=3, max_size=3)


def softmax(logits: Sequence[float], temperature: float) -> list[float]:
    powers = [math.exp(logit / temperature) for logit in logits]
    return [power / sum(powers) for power in powers]


def plain_kl(p: Sequence[float], q: Sequence[float]) -> float:
    """KL(p || q) = sum p log(p / q)."""
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a)


# -- the loss --------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(LOGITS, LOGITS), min_size=1, max_size=4), st.floats(0.5, 8))
def test_the_divergence_is_the_formula_in_both_directions(rows: Any, temperature: float) -> None:
    student, teacher = (torch.tensor([row[i] for row in rows], dtype=torch.float64) for i in (0, 1))
    pairs = [(softmax(s, temperature), softmax(t, temperature)) for s, t in rows]
    reverse = temperature**2 * sum(plain_kl(s, t) for s, t in pairs) / len(rows)
    forward = temperature**2 * sum(plain_kl(t, s) for s, t in pairs) / len(rows)
    assert divergence(student, teacher, temperature, "reverse").item() == pytest.approx(reverse, rel=1e-6, abs=1e-9)
    assert divergence(student, teacher, temperature, "forward").item() == pytest.approx(forward, rel=1e-6, abs=1e-9)


def test_classification_is_half_task_half_teacher() -> None:
    student, teacher = [[1.0, -2.0, 0.5], [0.0, 3.0, 1.0]], [[2.0, 0.0, -1.0], [1.0, 1.5, 4.0]]
    labels = [2, 1]
    carried = torch.tensor([[label, *row] for label, row in zip(labels, teacher, strict=True)])
    found = distilled_objective("classification", 0.5, 2.0, "reverse")({}, torch.tensor(student), carried)
    task = sum(-math.log(softmax(row, 1)[label]) for row, label in zip(student, labels, strict=True)) / 2
    learned = 4 * sum(plain_kl(softmax(s, 2), softmax(t, 2)) for s, t in zip(student, teacher, strict=True)) / 2
    assert found.item() == pytest.approx(0.5 * task + 0.5 * learned, rel=1e-6)
    other = distilled_objective("classification", 0.2, 2.0, "forward")({}, torch.tensor(student), carried)
    learned = 4 * sum(plain_kl(softmax(t, 2), softmax(s, 2)) for s, t in zip(student, teacher, strict=True)) / 2
    assert other.item() == pytest.approx(0.8 * task + 0.2 * learned, rel=1e-6)


def test_regression_is_the_squared_error_to_the_teacher_s_value() -> None:
    found = distilled_objective("regression", 0.25, 2.0, "reverse")(
        {}, torch.tensor([[1.0], [3.0]]), torch.tensor([[2.0, 0.5], [2.5, 5.0]])
    )
    # To the labels 2 and 2.5: (1 + 0.25) / 2; to the teacher's 0.5 and 5: (0.25 + 4) / 2. No temperature.
    assert found.item() == pytest.approx(0.75 * 0.625 + 0.25 * 2.125)


def test_spans_have_a_softmax_over_tokens_for_start_and_end(monkeypatch: pytest.MonkeyPatch) -> None:
    def task_loss(inputs: dict[str, Tensor], logits: Tensor, labels: Tensor) -> Tensor:
        assert labels.tolist() == [[1, 2], [0, 1]] and labels.dtype == torch.long
        return logits.new_tensor(10.0)

    monkeypatch.setattr(distillation, "task_objective", lambda kind: task_loss)
    torch.manual_seed(0)
    student = torch.randn(2, 3, 2)
    # Longest example of the whole set: 4 tokens; this batch has 3, of which the second row has 2.
    teacher = torch.randn(2, 2, 4)
    teacher[0, :, 3] = teacher[1, :, 2:] = distillation.NEVER
    carried = torch.cat([torch.tensor([[1.0, 2.0], [0.0, 1.0]]), teacher.reshape(2, -1)], 1)
    inputs = {"attention_mask": torch.tensor([[1, 1, 1], [1, 1, 0]])}
    found = distilled_objective("span", 0.5, 2.0, "reverse")(inputs, student.transpose(1, 2), carried)
    expected = []
    for row, length in ((0, 3), (1, 2)):
        for end in (0, 1):
            s, t = student[row, :length, end].tolist(), teacher[row, end, :length].tolist()
            expected.append(4 * plain_kl(softmax(s, 2), softmax(t, 2)))
    assert found.item() == pytest.approx(5 + 0.5 * sum(expected) / 4, rel=1e-5)


def test_the_gradient_of_forward_kl_is_that_of_soft_labels() -> None:
    student = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(4, 3, dtype=torch.float64)
    divergence(student, teacher, 2.0, "forward").backward()
    # d/ds T^2 KL(t || s) = T (softmax(s / T) - softmax(t / T)) / batch
    expected = 2 * ((student / 2).softmax(-1) - (teacher / 2).softmax(-1)) / 4
    torch.testing.assert_close(student.grad, expected.detach())


# -- labels by name --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("theirs", "ours", "order"),
    [
        (["a", "b"], ["a", "b"], [0, 1]),
        (["b", "a"], ["a", "b"], [1, 0]),
        (["NEUTRAL", "ENTAILMENT", "CONTRADICTION"], ["entailment", "neutral", "contradiction"], [1, 0, 2]),
        (["not entailment", "entailment"], ["entailment", "not_entailment"], [1, 0]),
        # Names that differ in case only are told apart where they can be.
        (["A", "a"], ["a", "A"], [1, 0]),
    ],
)
def test_labels_are_matched_by_name(theirs: list[str], ours: list[str], order: list[int]) -> None:
    assert match_labels(theirs, ours, "teacher") == order


@pytest.mark.parametrize(
    "theirs",
    [["LABEL_0", "LABEL_1"], ["negative"], ["negative", "positive", "neutral"], ["negative", "Negative"], []],
)
def test_other_names_are_refused(theirs: list[str]) -> None:
    with pytest.raises(UserError, match=r"has the labels .* the task negative, positive") as caught:
        match_labels(theirs, ["negative", "positive"], "some/teacher")
    assert len(str(caught.value)) <= 300


# -- runs ------------------------------------------------------------------------------------------------


def student(pico: Any, sentiment: Any, output: Path, **options: Any) -> Path:
    given = {
        "model": str(pico("bert")),
        "max_steps": 8,
        "batch_size": 16,
        "evaluations": 1,
        "sparsity": 0.5,
        **options,
    }
    return prune(str(given.pop("task", sentiment.csv)), given.pop("method", "smp"), output=output, **given).path


def result(run: Path) -> Any:
    return json.loads((run / "result.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def dense(pico: Any, sentiment: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return student(
        pico,
        sentiment,
        tmp_path_factory.mktemp("teacher"),
        method="dense",
        sparsity=None,
        weights_lr=2e-3,
        max_steps=60,
    )


@pytest.fixture(scope="module")
def distilled(dense: Path, pico: Any, sentiment: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return student(pico, sentiment, tmp_path_factory.mktemp("student"), teacher=str(dense))


@pytest.fixture(scope="module")
def folder(dense: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dense run as a stock folder whose labels stand the other way round."""
    made = export(dense, "hf", output=tmp_path_factory.mktemp("folder") / "stock").path
    config = json.loads((made / "config.json").read_text())
    assert config["id2label"] == {"0": "negative", "1": "positive"}
    config |= {"id2label": {"0": "Positive", "1": "Negative"}, "label2id": {"Positive": 0, "Negative": 1}}
    (made / "config.json").write_text(json.dumps(config))
    weights = load_file(made / "model.safetensors")
    for name in ("classifier.weight", "classifier.bias"):
        weights[name] = weights[name].flip(0).contiguous()
    save_file(weights, made / "model.safetensors", {"format": "pt"})
    return made


def test_a_run_with_a_teacher_says_so_and_can_be_repeated(distilled: Path, dense: Path, tmp_path: Path) -> None:
    settings = yaml.safe_load((distilled / "settings.yaml").read_text())
    assert settings["teacher"] == str(dense)
    assert (settings["teacher_weight"], settings["teacher_temperature"], settings["teacher_kl"]) == (
        0.5,
        2,
        "reverse",
    )
    about = result(distilled)["training"]["teacher"]
    assert about.pop("digest")
    assert about == {"name": str(dense), "weight": 0.5, "temperature": 2.0, "kl": "reverse"}
    assert evaluate(distilled).agrees
    again = prune(recipe=str(distilled / "settings.yaml"), output=tmp_path).path
    assert again.name == distilled.name
    assert (again / "mask.safetensors").read_bytes() == (distilled / "mask.safetensors").read_bytes()


def test_a_run_without_a_teacher_says_nothing_of_one(pico: Any, sentiment: Any, tmp_path: Path, dense: Path) -> None:
    plain = student(pico, sentiment, tmp_path)
    assert "teacher" not in (plain / "settings.yaml").read_text()
    assert "teacher" not in result(plain)["training"]
    # A teacher that isn't listened to changes nothing, not even the random numbers.
    deaf = student(pico, sentiment, tmp_path, teacher=str(dense), teacher_weight=0.0)
    assert (deaf / "mask.safetensors").read_bytes() == (plain / "mask.safetensors").read_bytes()
    assert deaf.name != plain.name


def test_labels_in_another_order_teach_the_same(
    folder: Path, distilled: Path, pico: Any, sentiment: Any, tmp_path: Path
) -> None:
    permuted = student(pico, sentiment, tmp_path, teacher=str(folder))
    assert (permuted / "mask.safetensors").read_bytes() == (distilled / "mask.safetensors").read_bytes()
    # And the teacher does teach: without it the masks are others.
    plain = student(pico, sentiment, tmp_path)
    assert (permuted / "mask.safetensors").read_bytes() != (plain / "mask.safetensors").read_bytes()


def test_a_student_with_another_tokenizer(dense: Path, pico: Any, sentiment: Any, tmp_path: Path) -> None:
    run = student(pico, sentiment, tmp_path, teacher=str(dense), model=str(pico("roberta")), head="prototype")
    assert evaluate(run).agrees


def test_regression_has_a_teacher_too(pico: Any, sentiment: Any, tmp_path: Path) -> None:
    teacher = student(pico, sentiment, tmp_path, task=sentiment.scores, method="dense", sparsity=None)
    run = student(pico, sentiment, tmp_path, task=sentiment.scores, teacher=str(teacher))
    assert result(run)["training"]["teacher"]["name"] == str(teacher)
    plain = student(pico, sentiment, tmp_path, task=sentiment.scores)
    assert (run / "mask.safetensors").read_bytes() != (plain / "mask.safetensors").read_bytes()


@pytest.mark.parametrize("max_steps", [3, 40])
def test_the_teacher_is_asked_once_about_what_training_sees(
    dense: Path,
    pico: Any,
    sentiment: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    max_steps: int,
) -> None:
    asked: list[np.ndarray] = []
    plain = distillation.teacher_logits

    def watched(model: Any, encoded: Any, wanted: np.ndarray, device: Any) -> Tensor:
        asked.append(wanted)
        return plain(model, encoded, wanted, device)

    monkeypatch.setattr(distillation, "teacher_logits", watched)
    run = student(pico, sentiment, tmp_path, teacher=str(dense), max_steps=max_steps)
    (wanted,) = asked
    assert len(set(wanted.tolist())) == len(wanted)
    # Three batches of 16, the last of an epoch perhaps smaller; or all of them. An example that is seen but wasn't
    # asked about would be NaN, and the loss with it.
    train = result(run)["data"]["train"]
    assert len(wanted) == train if max_steps == 40 else 32 < len(wanted) <= 48


# -- refusals --------------------------------------------------------------------------------------------


def test_what_is_no_teacher_is_refused_before_anything_is_made(
    pico: Any, sentiment: Any, dense: Path, folder: Path, tmp_path: Path
) -> None:
    strangers = tmp_path / "strangers"
    shutil.copytree(folder, strangers)
    config = json.loads((strangers / "config.json").read_text())
    config |= {"id2label": {"0": "LABEL_0", "1": "LABEL_1"}, "label2id": {"LABEL_0": 0, "LABEL_1": 1}}
    (strangers / "config.json").write_text(json.dumps(config))
    headless = tmp_path / "headless"
    shutil.copytree(pico("bert"), headless)
    config = json.loads((headless / "config.json").read_text())
    config |= {"id2label": {"0": "negative", "1": "positive"}, "label2id": {"negative": 0, "positive": 1}}
    (headless / "config.json").write_text(json.dumps(config))
    unfinished = tmp_path / "unfinished"
    shutil.copytree(dense, unfinished)
    (unfinished / "result.json").unlink()

    output = tmp_path / "results"
    for teacher, task, message in (
        (strangers, sentiment.csv, "has the labels LABEL_0, LABEL_1, the task negative, positive"),
        (headless, sentiment.csv, "no trained head for classification"),
        (unfinished, sentiment.csv, "unfinished"),
        (dense, sentiment.scores, "is of a classification task, this one is regression"),
        (folder, sentiment.scores, "has 2 labels where 'scores' asks for one number"),
        (tmp_path / "nowhere", sentiment.csv, "there is no model folder"),
        ("???", sentiment.csv, "smp finetune --task sentiment"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            student(pico, sentiment, output, task=task, teacher=str(teacher))
        assert len(str(caught.value)) <= 300 + 2 * len(str(tmp_path))
        assert not output.exists()
        # A dry run finds what names alone tell.
        if teacher != "???":
            with pytest.raises(UserError, match=message):
                plan(str(task), model=str(pico("bert")), teacher=str(teacher))
    assert plan(str(sentiment.csv), model=str(pico("bert")), teacher="???").settings["teacher"] == "???"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"teacher_weight": 0.3}, "'teacher_weight' needs a teacher"),
        ({"teacher": "x", "teacher_weight": 1.5}, "teacher_weight"),
        ({"teacher": "x", "teacher_temperature": 0}, "teacher_temperature"),
        ({"teacher": "x", "teacher_kl": "sideways"}, "teacher_kl"),
    ],
)
def test_settings_of_a_teacher_are_checked(sentiment: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        plan(str(sentiment.csv), **settings)


# -- teachers from elsewhere -------------------------------------------------------------------------------


def stock_teacher(pico: Any, name: str, folder: Path, **config: Any) -> Path:
    """A fine-tuned checkpoint of a `pico` model as others save one."""
    labels = {0: "negative", 1: "positive"}
    made = hf.AutoModelForSequenceClassification.from_pretrained(
        pico(name), id2label=labels, label2id={label: index for index, label in labels.items()}, **config
    )
    made.save_pretrained(folder)
    hf.AutoTokenizer.from_pretrained(pico(name)).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_decoder_teacher_needs_no_padding_token_in_its_configuration(
    pico: Any, sentiment: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    teacher = stock_teacher(pico, name, tmp_path / "teacher")
    assert json.loads((teacher / "config.json").read_text()).get("pad_token_id") is None
    found: list[Tensor] = []
    plain = distillation.teacher_logits

    def kept(*given: Any) -> Tensor:
        found.append(plain(*given))
        return found[-1]

    monkeypatch.setattr(distillation, "teacher_logits", kept)
    student(pico, sentiment, tmp_path, teacher=str(teacher), max_steps=20)
    # Each text alone, so without padding; the student's training rows are those of the file, in its order.
    stock = hf.AutoModelForSequenceClassification.from_pretrained(teacher).eval()
    tokenizer = hf.AutoTokenizer.from_pretrained(teacher)
    texts = load_data(resolve(flags={"task": str(sentiment.csv)}).task, None).train.texts
    seen = [index for index in range(len(texts)) if found[0][index].isfinite().all()][:30]
    with torch.no_grad():
        expected = torch.cat([stock(**tokenizer(texts[index], return_tensors="pt")).logits for index in seen])
    assert torch.allclose(found[0][seen], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("classifier.bias"), r"no trained head .*lack classifier\.bias"),
        (lambda state: state.pop("bert.pooler.dense.bias"), r"lack bert\.pooler\.dense\.bias of shape \(32,\)"),
        (lambda state: state.pop("bert.embeddings.LayerNorm.bias"), r"lack bert\.embeddings\.LayerNorm\.bias"),
    ],
)
def test_a_teacher_holds_every_weight(pico: Any, sentiment: Any, tmp_path: Path, change: Any, message: str) -> None:
    teacher = stock_teacher(pico, "bert", tmp_path / "teacher")
    state = load_file(teacher / "model.safetensors")
    change(state)
    save_file(state, teacher / "model.safetensors", {"format": "pt"})
    for call in (
        lambda: plan(str(sentiment.csv), model=str(pico("bert")), teacher=str(teacher)),
        lambda: student(pico, sentiment, tmp_path / "results", teacher=str(teacher)),
    ):
        with pytest.raises(UserError, match=message):
            call()
    assert not (tmp_path / "results").exists()


def test_a_teacher_s_head_of_nan_is_no_divergence(pico: Any, sentiment: Any, tmp_path: Path) -> None:
    teacher = stock_teacher(pico, "bert", tmp_path / "teacher")
    state = load_file(teacher / "model.safetensors")
    state["classifier.weight"][1, 3] = math.nan
    save_file(state, teacher / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"classifier\.weight holds NaN or infinity \(1 of 64 numbers"):
        student(pico, sentiment, tmp_path / "results", teacher=str(teacher))
    assert not (tmp_path / "results").exists()


def test_a_span_teacher_with_fewer_positions_is_refused(pico: Any, quiz: Path, tmp_path: Path) -> None:
    config = hf.AutoConfig.from_pretrained(pico("bert"), max_position_embeddings=24)
    hf.AutoModelForQuestionAnswering.from_config(config).save_pretrained(tmp_path / "teacher")
    hf.AutoTokenizer.from_pretrained(pico("bert")).save_pretrained(tmp_path / "teacher")
    with pytest.raises(UserError, match=r"tokens, where the model takes 24; take a teacher with more positions"):
        prune(
            str(quiz), model=str(pico("bert")), max_length=40, stride=8, max_steps=1,
            teacher=str(tmp_path / "teacher"), output=tmp_path / "results",
        )  # fmt: skip
