"""Heads: label words against the plain masked-LM model, prototypes against centroids computed plainly."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import transformers as hf
from torch import Tensor, nn

from smpcli.errors import UserError
from smpcli.modeling.backbone import load_tokenizer
from smpcli.modeling.heads import TaskModel, output_layer, set_prototypes, word_ids

MLM = ["bert-mlm", "roberta", "distilbert", "electra", "mpnet"]
CLASSIFIERS = ["bert", *MLM]
WORDS = {"negative": "terrible", "positive": "great"}


# -- label words -----------------------------------------------------------------------------------------


def words_model(pico: Any, name: str) -> tuple[TaskModel, Any]:
    tokenizer = load_tokenizer(str(pico(name)))
    backbone = hf.AutoModelForMaskedLM.from_pretrained(pico(name)).eval()
    ids = word_ids(tokenizer, WORDS, ["negative", "positive"], "task")
    return TaskModel(backbone, "words", set(), ids, tokenizer.mask_token_id), tokenizer


@pytest.mark.parametrize("name", MLM)
def test_words_head_equals_the_full_logits_at_mask_or_first_token(pico: Any, name: str) -> None:
    model, tokenizer = words_model(pico, name)
    mask = tokenizer.mask_token
    texts = ["the film was great", f"the film was {mask} with a dull script", f"good it was {mask} {mask}", "boring"]
    inputs = tokenizer(texts, padding=True, return_tensors="pt")
    # The first [MASK] by looking for it, else the first token.
    places = [
        row.index(tokenizer.mask_token_id) if tokenizer.mask_token_id in row else 0
        for row in inputs["input_ids"].tolist()
    ]
    assert [place > 0 for place in places] == [False, True, True, False]
    plain = hf.AutoModelForMaskedLM.from_pretrained(pico(name)).eval()
    with torch.no_grad():
        full = plain(**inputs).logits
        found = model.eval()(**inputs)
    space = "\u0120" if name == "roberta" else ""
    ids = tokenizer.convert_tokens_to_ids([f"{space}terrible", f"{space}great"])
    expected = torch.stack([full[row, place, ids] for row, place in enumerate(places)])
    assert found.shape == (4, 2)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", MLM)
def test_words_head_passes_gradients_to_every_block(pico: Any, name: str) -> None:
    model, tokenizer = words_model(pico, name)
    inputs = tokenizer(["a good film", "a dull film with a boring script"], padding=True, return_tensors="pt")
    model(**inputs).square().sum().backward()
    for path, parameter in model.backbone.base_model.named_parameters():
        if ".layer." in path and path.endswith("weight"):
            assert parameter.grad is not None and parameter.grad.abs().max() > 0, path


def test_label_words_are_an_index_at_the_device_that_no_state_dict_holds(pico: Any) -> None:
    model, tokenizer = words_model(pico, "bert-mlm")
    plain = hf.AutoModelForMaskedLM.from_pretrained(pico("bert-mlm"))
    assert set(model.state_dict()) == {f"backbone.{name}" for name in plain.state_dict()}
    assert model.to("meta").word_index.device.type == "meta"
    model, _ = words_model(pico, "bert-mlm")
    inputs = tokenizer(["the film was great"], return_tensors="pt")
    before = model(**inputs)
    assert model.word_ids is not None
    model.word_ids = [model.word_ids[1], *model.word_ids]
    assert torch.equal(model(**inputs), before[:, [1, 0, 1]])
    assert TaskModel(plain, "classifier", set()).word_ids is None


def test_words_without_a_mask_token_are_read_at_the_first_token(pico: Any) -> None:
    model, tokenizer = words_model(pico, "bert-mlm")
    inputs = tokenizer(["the film was [MASK]"], return_tensors="pt")
    with torch.no_grad():
        full = hf.AutoModelForMaskedLM.from_pretrained(pico("bert-mlm")).eval()(**inputs).logits
        model.mask_id = None
        found = model(**inputs)
    torch.testing.assert_close(found, full[:, 0, model.word_ids], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["bert-mlm", "roberta"])
def test_label_words_are_looked_up_as_inside_a_sentence(pico: Any, name: str) -> None:
    tokenizer = load_tokenizer(str(pico(name)))
    found = word_ids(tokenizer, {"no": "No", "yes": "Yes", "may": "Maybe"}, ["yes", "may", "no"], "task")
    space = "\u0120" if name == "roberta" else ""
    assert tokenizer.convert_ids_to_tokens(found) == [f"{space}Yes", f"{space}Maybe", f"{space}No"]


@pytest.mark.parametrize(
    ("name", "word", "pieces"),
    [("bert-mlm", "extraordinary", "extra ##ordinary"), ("roberta", "greatdull", "great"), ("bert-mlm", "zzz", "")],
)
def test_a_label_word_that_is_no_single_token_is_refused(pico: Any, name: str, word: str, pieces: str) -> None:
    tokenizer = load_tokenizer(str(pico(name)))
    with pytest.raises(UserError, match=f"label word '{word}' for 'positive' is not one token") as caught:
        word_ids(tokenizer, {"negative": "terrible", "positive": word}, ["negative", "positive"], "task")
    assert pieces in str(caught.value)
    assert "--set head=prototype" in str(caught.value)


def test_a_label_without_a_word_and_a_word_for_two_labels_are_refused(pico: Any) -> None:
    tokenizer = load_tokenizer(str(pico("bert-mlm")))
    with pytest.raises(UserError, match="task 'odd' names no label word for 'neutral'"):
        word_ids(tokenizer, WORDS, ["negative", "neutral"], "odd")
    with pytest.raises(UserError, match="two labels of task 'odd' share a label word"):
        word_ids(tokenizer, {"a": "Yes", "b": "Yes"}, ["a", "b"], "odd")


# -- prototypes ------------------------------------------------------------------------------------------


def classifier(pico: Any, name: str, labels: int = 2) -> TaskModel:
    backbone = hf.AutoModelForSequenceClassification.from_pretrained(pico(name), num_labels=labels)
    return TaskModel(backbone, "prototype", {"classifier.weight", "classifier.bias"})


def batches(pico: Any, sentiment: Any, name: str) -> list[tuple[dict[str, Tensor], Tensor]]:
    """Sixty sentences in uneven batches, with three classes of uneven size."""
    tokenizer = load_tokenizer(str(pico(name)))
    texts = [text for text, _ in sentiment.rows[:60]]
    classes = [0 if label == "negative" else 1 + (row % 3 == 0) for row, (_, label) in enumerate(sentiment.rows[:60])]
    labels = torch.tensor(classes)
    found = []
    for start, end in ((0, 7), (7, 40), (40, 60)):
        inputs = dict(tokenizer(texts[start:end], padding=True, return_tensors="pt"))
        found.append((inputs, labels[start:end]))
    return found


@torch.no_grad()
def pooled(pico: Any, sentiment: Any) -> tuple[list[Tensor], list[int]]:
    """What reaches BERT's classifier, one sentence at a time through the plain encoder."""
    encoder = hf.AutoModel.from_pretrained(pico("bert")).eval()
    features, labels = [], []
    for inputs, target in batches(pico, sentiment, "bert"):
        for row in range(len(target)):
            length = int(inputs["attention_mask"][row].sum())
            single = {name: tensor[row : row + 1, :length] for name, tensor in inputs.items()}
            features.append(encoder(**single).pooler_output[0].double())
            labels.append(int(target[row]))
    return features, labels


def test_prototypes_are_centred_centroids_of_unit_length_times_scale(pico: Any, sentiment: Any) -> None:
    model = classifier(pico, "bert", labels=3)
    set_prototypes(model, batches(pico, sentiment, "bert"), scale=4.0)
    features, labels = pooled(pico, sentiment)
    centroids = []
    for label in range(3):
        members = [feature for feature, own in zip(features, labels, strict=True) if own == label]
        centroids.append(sum(members[1:], members[0]) / len(members))
    middle = (centroids[0] + centroids[1] + centroids[2]) / 3
    rows, bias = (tensor.detach().double() for tensor in model.backbone.classifier.parameters())
    for label in range(3):
        direction = centroids[label] - middle
        expected = 4 * direction / math.sqrt(float(direction @ direction))
        torch.testing.assert_close(rows[label], expected, rtol=1e-4, atol=1e-4)
        # The bias moves the origin to the middle of the centroids.
        assert float(bias[label]) == pytest.approx(-float(expected @ middle), abs=1e-4)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_prototypes_work_on_every_architecture(pico: Any, sentiment: Any, name: str) -> None:
    model = classifier(pico, name, labels=3)
    data = batches(pico, sentiment, name)
    path, layer = output_layer(model.backbone)
    before = {key: tensor.clone() for key, tensor in model.backbone.state_dict().items()}
    model.train()
    set_prototypes(model, data, scale=2.5)
    assert model.training
    torch.testing.assert_close(layer.weight.detach().norm(dim=1), torch.full((3,), 2.5))
    for key, tensor in model.backbone.state_dict().items():
        assert torch.equal(tensor, before[key]) != key.startswith(f"{path}."), key
    # Dropout was off: the same once more.
    weight = layer.weight.detach().clone()
    set_prototypes(model, data, scale=2.5)
    assert torch.equal(layer.weight, weight)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_decoder_s_prototypes_are_of_the_token_that_is_read(pico: Any, sentiment: Any, name: str) -> None:
    """Its tokenizer puts the padding token behind a text, and one text ends in it: neither is what is read."""
    tokenizer = load_tokenizer(str(pico(name)))
    padding = tokenizer.pad_token_id
    config = hf.AutoConfig.from_pretrained(pico(name), num_labels=2, pad_token_id=padding)
    backbone = hf.AutoModelForSequenceClassification.from_pretrained(pico(name), config=config)
    rows = [tokenizer(text)["input_ids"] + [padding] for text, _ in sentiment.rows[:12]]
    rows[3] += [padding, padding]
    labels = [number % 2 for number in range(12)]
    data = []
    for start in (0, 5):
        part = rows[start : start + 7][: 5 if start == 0 else 7]
        longest = max(map(len, part))
        inputs = {
            "input_ids": torch.tensor([row + [padding] * (longest - len(row)) for row in part]),
            "attention_mask": torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in part]),
        }
        data.append((inputs, torch.tensor(labels[start : start + len(part)])))
    set_prototypes(TaskModel(backbone, "prototype", {"score.weight"}, last=True), data, scale=3.0)

    decoder = hf.AutoModel.from_pretrained(pico(name)).eval()
    sums = [torch.zeros(32, dtype=torch.double) for _ in range(2)]
    with torch.no_grad():
        for row, label in zip(rows, labels, strict=True):
            place = max(number for number, token in enumerate(row) if token != padding)
            assert place == len(row) - (4 if row is rows[3] else 2)
            sums[label] += decoder(input_ids=torch.tensor([row])).last_hidden_state[0, place].double() / 6
    direction = (sums[1] - sums[0]) / 2
    expected = 3 * direction / direction.norm()
    found = backbone.score.weight.detach().double()
    torch.testing.assert_close(found, torch.stack([-expected, expected]), rtol=1e-4, atol=1e-4)


def test_a_decoder_s_words_are_read_where_its_classes_are(pico: Any) -> None:
    tokenizer = load_tokenizer(str(pico("gpt2")))
    padding = tokenizer.pad_token_id
    backbone = hf.AutoModelForCausalLM.from_pretrained(pico("gpt2")).eval()
    ids = word_ids(tokenizer, WORDS, ["negative", "positive"], "task")
    plain = hf.AutoModelForCausalLM.from_pretrained(pico("gpt2")).eval()
    model = TaskModel(backbone, "words", set(), ids, last=True, padding=padding).eval()
    rows = [[9, 8, 7, padding], [9, 8, padding, padding], [9, 8, 7, 6]]
    inputs = {"input_ids": torch.tensor(rows), "attention_mask": torch.tensor([[1] * 4, [1] * 3 + [0], [1] * 4])}
    with torch.no_grad():
        full = plain(**inputs).logits
        torch.testing.assert_close(model(**inputs), full[range(3), [2, 1, 3]][:, ids], rtol=1e-5, atol=1e-5)
        # A run that is older than this was read at the last token of all.
        model.padding = None
        torch.testing.assert_close(model(**inputs), full[range(3), [3, 2, 3]][:, ids], rtol=1e-5, atol=1e-5)


def test_prototypes_tell_the_classes_apart(pico: Any, sentiment: Any) -> None:
    model = classifier(pico, "bert").eval()
    data = [(inputs, (labels > 0).long()) for inputs, labels in batches(pico, sentiment, "bert")]
    set_prototypes(model, data, scale=4.0)
    with torch.no_grad():
        right = sum(int((model(**inputs).argmax(1) == labels).sum()) for inputs, labels in data)
    assert right > 40


def test_two_prototypes_are_opposite(pico: Any, sentiment: Any) -> None:
    model = classifier(pico, "bert")
    set_prototypes(
        model, [(inputs, (labels > 0).long()) for inputs, labels in batches(pico, sentiment, "bert")], scale=1.0
    )
    negative, positive = model.backbone.classifier.weight.detach()
    torch.testing.assert_close(negative, -positive)


def test_a_regression_s_row_is_the_ridge_solution(pico: Any, sentiment: Any) -> None:
    model = classifier(pico, "bert", labels=1)
    data = [(inputs, labels.float() * 1.5 - 1) for inputs, labels in batches(pico, sentiment, "bert")]
    set_prototypes(model, data, scale=4.0)
    features, labels = pooled(pico, sentiment)
    # At the minimum of sum (w x + b - y)^2 + a |w|^2 both derivatives are 0; a: 1 % of the summed mean variance.
    x = torch.stack(features)
    y = torch.tensor(labels, dtype=torch.float64) * 1.5 - 1
    w, b = model.backbone.classifier.weight.detach().double()[0], model.backbone.classifier.bias.detach().double()
    a = 0.01 * len(x) * float((x - x.mean(0)).var())
    error = x @ w + b - y
    assert float(error.sum()) == pytest.approx(0, abs=1e-3)
    torch.testing.assert_close(x.T @ error + a * w, torch.zeros_like(w), rtol=0, atol=2e-3)
    assert float(error.square().mean()) < float((y - y.mean()).square().mean())


def test_output_layer_is_the_last_linear_of_the_head(pico: Any) -> None:
    expected = {"bert": "classifier", "distilbert": "classifier", "roberta": "classifier.out_proj"}
    for name, path in expected.items():
        # As many labels as the model is wide: the head's first linear has the same shape.
        backbone = hf.AutoModelForSequenceClassification.from_pretrained(pico(name), num_labels=32)
        found, layer = output_layer(backbone)
        assert found == path
        assert layer is backbone.get_submodule(path)


def test_a_model_without_an_output_layer_is_refused(pico: Any) -> None:
    backbone = hf.AutoModelForSequenceClassification.from_pretrained(pico("bert"))
    backbone.classifier = nn.Identity()
    with pytest.raises(UserError, match="'bert' has no linear classification layer"):
        output_layer(backbone)


# -- digests and own tensors -----------------------------------------------------------------------------


def test_own_tensors_are_the_head_s_and_the_digest_leaves_them_out(pico: Any) -> None:
    model = classifier(pico, "bert")
    assert sorted(model.own_parameters()) == ["classifier.bias", "classifier.weight"]
    before = model.base_digest()
    with torch.no_grad():
        model.backbone.classifier.weight.add_(1)
    assert model.base_digest() == before
    with torch.no_grad():
        model.backbone.bert.encoder.layer[1].output.dense.bias[3] += 1e-6
    assert model.base_digest() != before
