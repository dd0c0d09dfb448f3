"""`smp export --format npy` and `smp eval --mask`, as a person uses them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from commandline import PRUNABLE, Smp, packed_masks, result_of


@pytest.fixture
def mask(smp: Smp, worded: Path, tmp_path: Path) -> Path:
    file = tmp_path / "mask.npy"
    done = smp("export", worded, "--format", "npy", "--output", file).ok()
    assert done.out.strip() == str(file)
    return file


def test_a_words_run_travels_as_its_mask_alone(
    smp: Smp, worded: Path, mask: Path, pico: Callable[[str], Path], sentiment: Any
) -> None:
    masks = packed_masks(worded / "mask.safetensors")
    bits = np.concatenate([masks[name].reshape(-1) for name in sorted(masks)])
    assert np.array_equal(np.unpackbits(np.load(mask))[: len(bits)], bits)
    done = smp("eval", "--mask", mask, "--model", pico("bert-mlm"), "--task", sentiment.words, "--json").json
    # Words need no head of the run's own, so mask and base model are all there is to it.
    assert done["metrics"] == result_of(worded)["metrics"]
    assert (done["kept"], done["prunable"]) == (PRUNABLE // 10, PRUNABLE)
    shown = smp("eval", "--mask", mask, "--model", pico("bert-mlm"), "--task", sentiment.words).ok()
    assert shown.out == f"accuracy {done['metrics']['accuracy']!r}\n"
    assert f"{PRUNABLE // 10:,} of {PRUNABLE:,}" in shown.err


def test_a_prototype_run_s_mask_says_what_is_not_in_it(smp: Smp, finished: Path, tmp_path: Path) -> None:
    done = smp("export", finished, "--format", "npy", "--output", tmp_path / "p.npy").ok()
    assert "the run's prototype head is not in it" in done.err


def test_trained_weights_are_no_mask(smp: Smp, dense: Path, tmp_path: Path) -> None:
    done = smp("export", dense, "--format", "npy", "--output", tmp_path / "d.npy")
    assert done.code == 2 and "trains weights" in done.err
    assert not list(tmp_path.iterdir())


def test_a_mask_trained_with_the_release_s_words_is_read_by_them(
    smp: Smp, worded: Path, mask: Path, pico: Callable[[str], Path], sentiment: Any, tmp_path: Path
) -> None:
    """As MNLI: the authors' mask was trained with other words for the labels than the task's."""
    own = yaml.safe_load(sentiment.words.read_text())
    own["source"]["file"] = str(sentiment.words.parent / own["source"]["file"])
    names = list(own["words"])
    swapped = dict(zip(names, [own["words"][name] for name in reversed(names)], strict=True))
    task = tmp_path / "task.yaml"
    task.write_text(yaml.safe_dump({**own, "words": swapped, "released_words": own["words"]}))
    ask = ["eval", "--mask", mask, "--model", pico("bert-mlm"), "--task", task]
    refused = smp(*ask)
    assert refused.code == 2 and "--words released" in refused.err and "--words task" in refused.err
    assert f"{names[0]} = {own['words'][names[0]]}" in refused.err and len(refused.err.splitlines()) == 1
    trained = result_of(worded)["metrics"]["accuracy"]
    assert smp(*ask, "--words", "released", "--json").json["metrics"]["accuracy"] == trained != 0.5
    # Two labels: each answer by the task's own words is the other one.
    shown = smp(*ask, "--words", "task", "--json").json
    assert shown["metrics"]["accuracy"] == pytest.approx(1 - trained) and shown["words"] == swapped
    assert f"{names[0]} = {own['words'][names[0]]}" in smp(*ask, "--words", "released").ok().err
    none = smp("eval", "--mask", mask, "--model", pico("bert-mlm"), "--task", sentiment.words, "--words", "released")
    assert none.code == 2 and "names no words of released masks" in none.err


def test_mnli_s_released_words() -> None:
    from smpcli.tasks.task import find_task

    # Labels in the teacher's order (contradiction, entailment, neutral), words in the task's (Yes, Maybe, No).
    assert find_task("mnli").released_words == {"entailment": "Maybe", "neutral": "No", "contradiction": "Yes"}
    for name in ("qqp", "squad"):
        assert find_task(name).released_words == find_task(name).words


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "takes a run's folder, or --mask"),
        ("{run} --mask {mask}", "one of the two"),
        ("--mask {mask}", "--task"),
        ("{run} --task sst2", "go with --mask"),
        ("{run} --words task", "go with --mask"),
        ("--mask {mask} --task mnli --model {model}", "add --words released"),
        ("--mask {mask} --task {words} --model {other}", "prunable weights take"),
        ("--mask {mask} --task {words} --model {bare}", "no trained language-model head"),
        ("--mask {mask} --task {csv} --model {model}", "names no label words"),
        ("--mask {mask}.gone --task {words} --model {model}", "there is no mask file"),
        ("--mask {mask} --task nonsense --model {model}", "unknown task"),
    ],
)
def test_what_does_not_fit_is_refused(
    smp: Smp, worded: Path, mask: Path, pico: Callable[[str], Path], sentiment: Any, arguments: str, message: str
) -> None:
    places = {
        "run": worded,
        "mask": mask,
        "words": sentiment.words,
        "csv": sentiment.csv,
        "model": pico("bert-mlm"),
        "bare": pico("bert"),
        "other": pico("roberta"),
    }
    done = smp("eval", *(part.format(**places) for part in arguments.split()))
    assert done.code == 2 and message in done.err and len(done.err.splitlines()) == 1
    assert not done.out
