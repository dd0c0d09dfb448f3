"""A person's texts in runs and exports: prepared as in training, special tokens in them as the run recorded."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf

from smpcli import UserError, evaluate, load, prune
from smpcli.export.many import SharedBase

MakeRun = Callable[..., Path]
Export = Callable[..., Any]
SHORT: dict[str, Any] = {"sparsity": 0.5, "max_steps": 3, "batch_size": 8, "max_length": 24}


def recorded(run: Path) -> Any:
    return json.loads((run / "result.json").read_text())["data"]["special_tokens"]


def aged(run: Path, folder: Path) -> Path:
    """The run as an smp left it that knew nothing of special tokens."""
    copy = shutil.copytree(run, folder / run.name)
    result = json.loads((copy / "result.json").read_text())
    del result["data"]["special_tokens"]
    (copy / "result.json").write_text(json.dumps(result))
    return copy


def by_hand(folder: Path, tokens: str, place: int) -> list[float]:
    """Logits of "terrible" and "great" at one place of pieces, by transformers and an hf export alone."""
    stock = hf.AutoModelForMaskedLM.from_pretrained(folder).eval()
    tokenizer = hf.AutoTokenizer.from_pretrained(folder)
    ids = torch.tensor([tokenizer.convert_tokens_to_ids(tokens.split())])
    words = tokenizer.convert_tokens_to_ids(["terrible", "great"])
    with torch.no_grad():
        logits: torch.Tensor = stock(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    return [float(logits[0, place, word]) for word in words]


def test_a_mask_that_a_person_wrote_is_read_as_characters(
    finished: MakeRun, export_here: Export, tmp_path: Path
) -> None:
    run = finished("bert-mlm", "words")
    assert recorded(run) == []
    exports = {form: export_here(run, form, output=tmp_path / form).path for form in ("hf", "compact", "mask")}
    expected = by_hand(exports["hf"], "[CLS] a [UNK] [UNK] [UNK] film [SEP]", 0)
    for place in (run, *exports.values()):
        assert load(place).logits(["a [MASK] film"])[0].tolist() == pytest.approx(expected, abs=1e-5), place
    assert json.loads((exports["hf"] / "smp.json").read_text())["special_tokens"] == []
    assert "split_special_tokens" in (exports["hf"] / "README.md").read_text()
    # What transformers alone makes of the text with the folder's tokenizer.
    stock = hf.AutoTokenizer.from_pretrained(exports["hf"])
    assert stock("a [MASK] film").tokens() == "[CLS] a [UNK] [UNK] [UNK] film [SEP]".split()


def test_an_older_run_is_read_as_it_was(finished: MakeRun, export_here: Export, tmp_path: Path) -> None:
    run = aged(finished("bert-mlm", "words"), tmp_path)
    assert evaluate(run).agrees
    folder = export_here(run, "hf", output=tmp_path / "hf").path
    expected = by_hand(folder, "[CLS] a [MASK] film [SEP]", 2)
    assert abs(expected[0] - by_hand(folder, "[CLS] a [MASK] film [SEP]", 0)[0]) > 1e-3
    mask = export_here(run, "mask", output=tmp_path / "old.smpmask").path
    for place in (run, folder, mask):
        assert load(place).logits(["a [MASK] film"])[0].tolist() == pytest.approx(expected, abs=1e-5), place
    # Beside a newer one over the same base, each keeps its reading.
    newer = export_here(finished("bert-mlm", "words"), "mask", output=tmp_path / "new.smpmask").path
    base = SharedBase([newer, mask])
    alone = [load(path).logits(["a [MASK] film", "a film"]) for path in (newer, mask)]
    assert not torch.allclose(alone[0][0], alone[1][0]) and torch.allclose(alone[0][1], alone[1][1])
    for index in (0, 1, 0):
        assert torch.equal(base.use(index).logits(["a [MASK] film", "a film"]), alone[index])


@pytest.fixture(scope="module")
def templated(pico: Any, sentiment: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on texts that all hold [MASK]."""
    folder = tmp_path_factory.mktemp("templated")
    with (folder / "t.csv").open("w", newline="") as file:
        rows = [(f"it was [MASK] . {text}", label) for text, label in sentiment.rows[:80]]
        csv.writer(file).writerows([("text", "label"), *rows])
    task = sentiment.words.read_text().replace("sentiment.csv", "t.csv")
    (folder / "t.yaml").write_text(task)
    return prune(str(folder / "t.yaml"), model=str(pico("bert-mlm")), output=folder, **SHORT).path


def test_texts_of_a_template_are_read_at_their_mask(templated: Path, export_here: Export, tmp_path: Path) -> None:
    assert recorded(templated) == ["[MASK]"] and evaluate(templated).agrees
    folder = export_here(templated, "hf", output=tmp_path / "hf").path
    expected = by_hand(folder, "[CLS] it was [MASK] . a film [SEP]", 3)
    found = [load(place).logits(["it was [MASK] . a film"])[0].tolist() for place in (templated, folder)]
    assert found == [pytest.approx(expected, abs=1e-5)] * 2
    for text, count in (("a film", 0), ("it was [MASK] . [MASK]", 2)):
        with pytest.raises(UserError, match=rf"text 2 holds \[MASK\] {count} times, where each text"):
            load(folder).predict(["it was [MASK] . a film", text])


def test_a_unigram_model_s_pieces_are_no_boundary(sentiment: Any, export_here: Export, tmp_path: Path) -> None:
    """XLM-RoBERTa's lattice has "</s>" in it; dev texts hold it, and transformers alone reads them alike."""
    model = tmp_path / "model"
    special = [(token, 0.0) for token in ("<s>", "<pad>", "</s>", "<unk>")]
    letters = [(letter, -5.0) for letter in "▁abcdefghijklmnopqrstuvwxyz</>"]
    tokenizer = hf.XLMRobertaTokenizer(vocab=[*special, *letters, ("<mask>", 0.0)])
    tokenizer.save_pretrained(model)
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
    torch.manual_seed(0)
    config = hf.XLMRobertaConfig(vocab_size=len(tokenizer), max_position_embeddings=40, type_vocab_size=1, **shape)
    hf.XLMRobertaModel(config).save_pretrained(model)
    with (tmp_path / "s.csv").open("w", newline="") as file:
        rows = [(f"{text[:8]}</s> {text[-4:]}", label) for text, label in sentiment.rows[:40]]
        csv.writer(file).writerows([("text", "label"), *rows, ("good", "positive")])
    run = prune(str(tmp_path / "s.csv"), model=str(model), output=tmp_path, **SHORT).path
    assert recorded(run) == []
    inputs = load(run).encode(["ab</s> c"])["input_ids"][0].tolist()
    assert inputs.count(tokenizer.eos_token_id) == 1 and evaluate(run).agrees
    # Verified by transformers alone, on dev texts that hold the piece.
    folder = export_here(run, "hf", output=tmp_path / "hf").path
    assert load(folder).encode(["ab</s> c"])["input_ids"][0].tolist() == inputs


def test_a_teacher_reads_texts_as_its_student_does(pico: Any) -> None:
    from types import SimpleNamespace

    from smpcli.modeling.backbone import load_tokenizer
    from smpcli.tasks.examples import Examples
    from smpcli.training import distillation
    from smpcli.training.teacher import Teacher

    kind, run = SimpleNamespace(kind="classification"), SimpleNamespace(teacher="a-checkpoint")
    settings = SimpleNamespace(task=kind, run=run, max_length=24)
    model = hf.AutoModelForSequenceClassification.from_pretrained(pico("bert"))
    for texts, tokens in (
        (["a [SEP] film", "good"], "[CLS] a [UNK] [UNK] [UNK] film [SEP]"),
        (["a [SEP] film", "good [SEP]"], "[CLS] a [SEP] film [SEP]"),
    ):
        teacher = Teacher(model, load_tokenizer(str(pico("bert"))), [0, 1])
        data = SimpleNamespace(train=Examples(texts, None, [0, 1]))
        found = distillation._in_teachers_words(settings, data, None, None, teacher)  # type: ignore[arg-type]
        assert teacher.tokenizer.convert_ids_to_tokens(found.columns["input_ids"][0]) == tokens.split()


# -- as training prepares them -------------------------------------------------------------------------------

SPACES = ["good film", " good film", "good film \t", "\u3000good film\xa0\u2028", "\ngood film\x1c\r\n"]


@pytest.fixture(scope="module")
def decoder(finished: MakeRun) -> Any:
    return load(finished("gpt2"))


def test_surrounding_white_space_is_left_out_as_in_training(decoder: Any, tmp_path: Path) -> None:
    from smpcli.tasks.data import load_data
    from smpcli.tasks.task import find_task

    with (tmp_path / "s.jsonl").open("w") as file:
        for number, text in enumerate(SPACES * 8):
            file.write(json.dumps({"text": text, "label": "ab"[number % 2]}) + "\n")
    with pytest.raises(UserError, match="too few different texts"):
        load_data(find_task(str(tmp_path / "s.jsonl")), None)
    plain = decoder.tokenizer(["good film"])["input_ids"][0]
    for text in SPACES:
        assert decoder.encode([text])["input_ids"][0].tolist() == plain
        assert decoder.predict([text]) == decoder.predict(["good film"])
    # What isn't white space stays, here as there.
    assert len(decoder.encode(["\u200bgood film"])["input_ids"][0]) >= len(plain)


def test_a_question_is_prepared_and_places_are_those_of_the_context(pico: Any, quiz: Path, tmp_path: Path) -> None:
    run = prune(str(quiz), model=str(pico("gpt2")), stride=6, output=tmp_path, **(SHORT | {"max_length": 32})).path
    ready = load(run)
    one, other = (
        ready.windows(["which one is good"] * 2, ["  the good film"] * 2),
        ready.windows(["which one is good ", "\u2003which one is good\n"], ["  the good film"] * 2),
    )
    assert one.columns == other.columns
    assert ready.predict(["which one is good "], ["  the good film"])[0]["answer"] in "the good film"
    for question, context, said in (
        ("", "the film", "text 4: the question is empty"),
        (" \u3000", "the film", "text 4: the question is empty"),
        ("which", "", "text 4: the context is empty"),
        ("", "", "text 4: the question is empty"),
    ):
        with pytest.raises(UserError, match=said):
            ready.predict(["which", question], ["a film", context], first=3)


@pytest.mark.parametrize("text", ["", " ", "\u3000\n"])
def test_a_text_without_a_token_is_refused_by_its_number(decoder: Any, text: str) -> None:
    texts = ["good film"] * 40 + [text, "good"]
    with pytest.raises(UserError, match="text 41 holds no token that the model reads"):
        decoder.predict(texts)
    with pytest.raises(UserError, match="text 1 holds no token"):
        decoder.predict([text])


def test_half_a_surrogate_pair_is_refused(decoder: Any) -> None:
    with pytest.raises(UserError, match="text 2 holds half a surrogate pair"):
        decoder.predict(["good", "a \ud83d film"])


def test_control_characters_alone_are_no_text_for_a_model_that_adds_nothing(pico: Any) -> None:
    from tokenizers import processors

    from smpcli.encoding.batches import encode
    from smpcli.modeling.backbone import load_tokenizer
    from smpcli.tasks.examples import Examples

    tokenizer = load_tokenizer(str(pico("bert")))
    texts = Examples(["a film", "\x01\x02"], None, [0, 1])
    assert encode(tokenizer, texts, 24).lengths.tolist() == [4, 2]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A", special_tokens=[])
    with pytest.raises(UserError, match=r"the text '\\x01\\x02' holds no token that the model reads"):
        encode(tokenizer, texts, 24)


# -- a tokenizer that appends its padding token --------------------------------------------------------------


@pytest.mark.parametrize("head", ["words", "prototype"])
def test_a_decoder_whose_tokenizer_appends_its_padding_token(
    pico: Any, sentiment: Any, export_here: Export, tmp_path: Path, head: str
) -> None:
    from tokenizers import processors

    model = shutil.copytree(pico("gpt2"), tmp_path / "model")
    tokenizer = hf.AutoTokenizer.from_pretrained(model)
    end = tokenizer.eos_token_id
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", end)]
    )
    tokenizer.save_pretrained(model)
    run = prune(str(sentiment.words), model=str(model), head=head, output=tmp_path, **SHORT).path
    folder = export_here(run, "hf", output=tmp_path / "hf").path
    ids = hf.AutoTokenizer.from_pretrained(folder)("a good film")["input_ids"]
    assert ids[-1] == end and end not in ids[:-1]
    # What stands before the appended token, by transformers alone.
    with torch.no_grad():
        if head == "prototype":
            stock = hf.AutoModelForSequenceClassification.from_pretrained(folder).eval()
            hidden = stock.transformer(input_ids=torch.tensor([ids])).last_hidden_state
            expected = stock.score(hidden[0, -2]).tolist()
        else:
            stock = hf.AutoModelForCausalLM.from_pretrained(folder).eval()
            words = json.loads((folder / "smp.json").read_text())["word_ids"]
            expected = stock(input_ids=torch.tensor([ids])).logits[0, -2, words].tolist()
    for place in (run, folder, export_here(run, "mask", output=tmp_path / "a.smpmask").path):
        # Beside a longer text it is padded.
        found = load(place).logits(["a good film", "a dull film with a boring script"])[0].tolist()
        assert found == pytest.approx(expected, abs=1e-5), place
