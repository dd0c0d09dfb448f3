"""Tokenised examples and the order in which they are trained on."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from hypothesis import given
from hypothesis import strategies as st

from smpcli import prune
from smpcli.encoding.batches import Encoded, LengthBuckets, encode, evaluation_order, training_loader
from smpcli.modeling.backbone import load_tokenizer
from smpcli.tasks.data import Examples


def padded_tokens(batches: list[list[int]], lengths: np.ndarray) -> int:
    return sum(len(batch) * max(int(lengths[i]) for i in batch) for batch in batches)


@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=60),
    st.integers(1, 17),
    st.integers(1, 9),
    st.integers(0, 600),
)
def test_neighbours_are_joined_up_to_a_number_of_padded_tokens(
    lengths: list[int], batch_size: int, micro_batches: int, together: int
) -> None:
    encoded = Encoded(
        {"input_ids": [[index] * length for index, length in enumerate(lengths)]},
        torch.arange(len(lengths)),
        {"input_ids": 0},
    )
    order = [LengthBuckets(np.array(lengths), batch_size, 0, 10, micro_batches) for _ in range(2)]
    plain, joined = training_loader(encoded, order[0]), training_loader(encoded, order[1], together=together)
    for apart, batch in zip(plain, joined, strict=True):
        # What each holds, and in which order, stays.
        assert torch.cat([labels for _, labels in batch]).tolist() == torch.cat([part for _, part in apart]).tolist()
        whole = {labels.tolist()[0] for _, labels in apart}
        sizes = [inputs["input_ids"].numel() for inputs, _ in batch]
        assert all(labels.tolist()[0] in whole for _, labels in batch)
        own = {labels.tolist()[0]: inputs["input_ids"].numel() for inputs, labels in apart}
        for size, (_, labels) in zip(sizes, batch, strict=True):
            assert size <= together or size == own[labels.tolist()[0]]
        # None could have taken the next one, too.
        for (one, labels), (other, more) in pairwise(batch):
            first = next(part for part in apart if part[1].tolist()[0] == more.tolist()[0])
            longest = max(one["input_ids"].shape[1], first[0]["input_ids"].shape[1])
            assert (len(labels) + len(first[1])) * longest > together
            assert other["input_ids"].shape[1] >= first[0]["input_ids"].shape[1]


# -- order -----------------------------------------------------------------------------------------------


@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=200),
    st.integers(1, 17),
    st.integers(0, 2**31 - 1),
    st.integers(1, 9),
    st.integers(1, 20),
)
def test_every_example_comes_once_an_epoch(
    lengths: list[int], batch_size: int, seed: int, window: int, micro_batches: int
) -> None:
    buckets = LengthBuckets(np.array(lengths), batch_size, seed, window, micro_batches)
    for _ in range(3):
        batches = list(buckets)
        assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
        assert len(batches) == len(buckets) == -(-len(lengths) // batch_size)
        # All batches are full but for one with what is left.
        sizes = sorted(len(batch) for batch in batches)
        assert sizes[1:] == [batch_size] * (len(batches) - 1)


def test_order_depends_on_seed_and_epoch_and_on_nothing_else() -> None:
    lengths = np.array(random.Random(3).choices(range(5, 40), k=300))
    one, same, other = (LengthBuckets(lengths, 8, seed, 4) for seed in (5, 5, 6))
    first, second = list(one), list(one)
    # The run's own random state has no part in it, and isn't touched.
    torch.manual_seed(99)
    np.random.seed(99)
    state = torch.get_rng_state()
    assert (list(same), list(same)) == (first, second)
    assert torch.equal(torch.get_rng_state(), state)
    assert first != second
    assert list(other) != first


def test_there_is_less_padding_than_in_a_random_order() -> None:
    draw = random.Random(4)
    # Most sentences are short, a few are long: 2,000 of them, so several windows.
    lengths = np.array([min(60, 3 + int(draw.expovariate(0.1))) for _ in range(2_000)])
    order = draw.sample(range(2_000), k=2_000)
    unsorted = [order[start : start + 16] for start in range(0, 2_000, 16)]
    bucketed = list(LengthBuckets(lengths, 16, 0, 50))
    real = int(lengths.sum())
    assert padded_tokens(bucketed, lengths) - real < (padded_tokens(unsorted, lengths) - real) / 5


def test_a_window_of_one_batch_leaves_lengths_out_of_it() -> None:
    lengths = np.array([1] * 500 + [60] * 500)
    batches = [lengths[batch] for batch in LengthBuckets(lengths, 20, 0, 1)]
    # Ten of each on average; that a random batch is of one length has a chance of 2 in a million.
    assert all(0 < np.count_nonzero(batch == 60) < 20 for batch in batches)
    assert max(np.count_nonzero(batch == 60) for batch in batches) > 10
    mixed = sum(len(set(lengths[batch])) > 1 for batch in LengthBuckets(lengths, 20, 0, 50))
    assert mixed <= 1


@pytest.mark.parametrize(("window", "micro_batches"), [(1, 1), (50, 1), (50, 2)])
def test_a_run_takes_the_order_of_its_settings(
    pico: Any, sentiment: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, window: int, micro_batches: int
) -> None:
    """What is put together are the batches of an order with that window, worked out beside the run."""
    seen: list[list[int]] = []
    lengths: list[np.ndarray] = []
    collate = Encoded.collate

    def recorded(self: Encoded, indices: Sequence[int]) -> Any:
        # Prototypes are made of larger batches, before training.
        if len(indices) == 8 // micro_batches:
            seen.append(list(indices))
            lengths.append(self.lengths)
        return collate(self, indices)

    monkeypatch.setattr(Encoded, "collate", recorded)
    options: dict[str, Any] = {
        "model": str(pico("bert")),
        "max_steps": 4,
        "batch_size": 8,
        "evaluations": 1,
        "seed": 3,
    }
    options |= {"bucket_window": window, "micro_batches": micro_batches, "seed": 3}
    prune(str(sentiment.csv), output=tmp_path / "run", **options)
    starts = range(0, 4 * micro_batches, micro_batches)
    batches = [[index for part in seen[at : at + micro_batches] for index in part] for at in starts]
    assert batches == list(LengthBuckets(lengths[0], 8, 3, window, micro_batches))[:4]
    assert batches != list(LengthBuckets(lengths[0], 8, 3, 51 - window, micro_batches))[:4]


def test_batches_of_buckets_mix_lengths_and_pad_little() -> None:
    draw = random.Random(4)
    lengths = np.array([min(60, 3 + int(draw.expovariate(0.1))) for _ in range(2_000)])
    # By chance, the means of 16 of these lengths scatter by their deviation / 4.
    by_chance = float(lengths.std()) / 4

    def scatter(order: LengthBuckets) -> float:
        return float(np.std([lengths[batch].mean() for batch in order]))

    def padding(order: LengthBuckets) -> float:
        parts = [batch[at : at + order.bucket] for batch in order for at in range(0, len(batch), order.bucket)]
        return padded_tokens(parts, lengths) / int(lengths.sum()) - 1

    whole, eight, chance = (LengthBuckets(lengths, 16, 0, *form) for form in ((50, 1), (50, 8), (1, 8)))
    assert scatter(whole) > 3 * by_chance
    assert scatter(eight) < 2 * by_chance and scatter(chance) < 1.3 * by_chance
    assert padding(eight) < 0.03 < padding(chance) < padding(LengthBuckets(lengths, 16, 0, 1)) / 3


def test_long_and_short_batches_are_mixed() -> None:
    lengths = np.arange(1, 321)
    means = [float(lengths[batch].mean()) for batch in LengthBuckets(lengths, 8, 0, 50)]
    # 40 batches in random order: a sorted one would rise at each of its 39 steps.
    assert 10 < sum(later > earlier for earlier, later in pairwise(means)) < 30


def test_evaluation_goes_from_short_to_long(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = made_of([[1] * n for n in (5, 2, 9, 2, 7)])
    monkeypatch.setattr(Encoded, "evaluation_batch", 2)
    assert evaluation_order(encoded) == [[1, 3], [0, 4], [2]]


# -- batches ---------------------------------------------------------------------------------------------


def made_of(ids: list[list[int]]) -> Encoded:
    columns = {
        "input_ids": ids,
        "attention_mask": [[1] * len(row) for row in ids],
        "token_type_ids": [[0, *[1] * (len(row) - 1)] for row in ids],
    }
    return Encoded(columns, torch.arange(len(ids)), {"input_ids": 77, "attention_mask": 0, "token_type_ids": 0})


def test_collate_pads_on_the_right_up_to_the_longest_of_the_batch() -> None:
    encoded = made_of([[5, 6, 7], [8], [9, 10], [1] * 30])
    inputs, labels = encoded.collate([2, 0, 1])
    assert inputs["input_ids"].tolist() == [[9, 10, 77], [5, 6, 7], [8, 77, 77]]
    assert inputs["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1], [1, 0, 0]]
    assert inputs["token_type_ids"].tolist() == [[0, 1, 0], [0, 1, 1], [0, 0, 0]]
    assert labels.tolist() == [2, 0, 1]
    assert {tensor.dtype for tensor in (*inputs.values(), labels)} == {torch.int64}
    assert encoded.lengths.tolist() == [3, 1, 2, 30]
    assert len(encoded) == 4


@pytest.mark.parametrize("micro_batches", [1, 3])
def test_the_loader_yields_the_sampler_s_batches_epoch_after_epoch(micro_batches: int) -> None:
    draw = random.Random(1)
    encoded = made_of([[1] * draw.randint(3, 20) for _ in range(50)])
    order, expected = (LengthBuckets(encoded.lengths, 8, 3, 2, micro_batches) for _ in range(2))
    # Accelerate wraps the loader and reads one batch ahead: no epoch may be lost by that.
    loader = Accelerator(cpu=True).prepare(training_loader(encoded, order))
    for _ in range(3):
        assert [torch.cat([labels for _, labels in batch]).tolist() for batch in loader] == list(expected)


# -- tokenising ------------------------------------------------------------------------------------------


def test_sentences_are_tokenised_and_cut(pico: Any) -> None:
    tokenizer = load_tokenizer(str(pico("bert")))
    encoded = encode(tokenizer, Examples(["the film", "good " * 30], None, [1, 0]), 6)
    the, film, good = tokenizer.convert_tokens_to_ids(["the", "film", "good"])
    cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
    assert encoded.columns["input_ids"] == [[cls, the, film, sep], [cls, good, good, good, good, sep]]
    assert encoded.columns["attention_mask"] == [[1] * 4, [1] * 6]
    assert encoded.labels.tolist() == [1, 0] and encoded.labels.dtype == torch.int64
    assert encoded.padding["input_ids"] == tokenizer.pad_token_id


def test_pairs_are_two_segments(pico: Any) -> None:
    tokenizer = load_tokenizer(str(pico("bert")))
    encoded = encode(tokenizer, Examples(["the film"], ["a plot was dull"], [0.25]), 20)
    assert tokenizer.convert_ids_to_tokens(encoded.columns["input_ids"][0]) == (
        "[CLS] the film [SEP] a plot was dull [SEP]".split()
    )
    assert encoded.columns["token_type_ids"] == [[0] * 4 + [1] * 5]
    assert encoded.labels.tolist() == [0.25] and encoded.labels.dtype == torch.float32


def test_a_model_that_pads_with_another_token_than_0(pico: Any) -> None:
    tokenizer = load_tokenizer(str(pico("roberta")))
    encoded = encode(tokenizer, Examples(["a film", "a film was good"], None, [1, 0]), 20)
    inputs, _ = encoded.collate([0, 1])
    assert set(inputs) == {"input_ids", "attention_mask"}
    assert inputs["input_ids"][0, -2:].tolist() == [1, 1] == [tokenizer.pad_token_id] * 2


@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert", "electra", "mpnet"])
def test_padding_leaves_the_logits_alone(pico: Any, name: str) -> None:
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(pico(name)).eval()
    examples = Examples(["fine", "a film with a dull plot", "good"], None, [0, 0, 0])
    encoded = encode(load_tokenizer(str(pico(name))), examples, 20)
    with torch.no_grad():
        together = model(**encoded.collate([0, 1, 2])[0]).logits
        alone = torch.cat([model(**encoded.collate([index])[0]).logits for index in range(3)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
