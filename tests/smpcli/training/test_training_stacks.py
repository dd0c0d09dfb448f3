"""A run computed as an accelerator computes it, on CPU tensors: the same run, and a step that waits for nothing."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.utils import send_to_device
from pico_training import METHODS, STEPS, batch, training
from torch.utils.data._utils.pin_memory import pin_memory

from pruners.masks.stack import stacks_of
from smpcli.api import prune
from smpcli.device import make_accelerator, settled
from smpcli.encoding.batches import training_order
from smpcli.evaluation.evaluate import Evaluation
from smpcli.settings import resolve
from smpcli.tasks.data import load_data
from smpcli.training import session as sessions
from smpcli.training.health import Health
from smpcli.training.launches import Recorder, recorded
from smpcli.training.loop import Training, train
from smpcli.training.progress import Step, TrainingDiverged


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("method", [name for name in METHODS if name != "l0"])
def test_a_stacked_training_is_the_same_training(method: str, parts: int) -> None:
    ended = []
    for stacked in (False, True):
        made = training(METHODS[method](), stacked)
        assert (stacks_of(made.layers) is not None) == stacked
        losses = []
        for step in range(STEPS):
            made.step(step, batch(step, parts))
            losses.append(made.health.loss)
        made.finish()
        ended.append((losses, [layer.mask.clone() for layer in made.layers], made))
    assert ended[0][0] == pytest.approx(ended[1][0], abs=1e-4)
    differing = sum(int((one ^ other).sum()) for one, other in zip(ended[0][1], ended[1][1], strict=True))
    kept = sum(int(mask.sum()) for mask in ended[0][1])
    assert kept == sum(int(mask.sum()) for mask in ended[1][1])
    # Sums in another order; AdamW's first steps divide by gradients near nothing.
    assert differing <= kept // 100
    for layer in ended[1][2].layers:
        assert torch.equal(layer.effective, layer.weight * layer.mask)


def test_l0_trains_stacked_to_the_density_asked_for() -> None:
    made = training(METHODS["l0"](), stacked=True)
    before = made.layers[0].score().clone()
    for step in range(STEPS):
        made.step(step, batch(step))
    made.finish()
    total = sum(layer.size for layer in made.layers)
    assert sum(int(layer.mask.sum()) for layer in made.layers) == total // 5
    assert not torch.equal(made.layers[0].score(), before)


# -- waiting ---------------------------------------------------------------------------------------------------------


def operations(method: str, layers: int, precision: str = "fp32") -> tuple[int, int]:
    """Launched by a step beyond the model's own passes, and waits of the whole step."""
    made = training(METHODS[method](), stacked=True, layers=layers, precision=precision)
    made.health.waits = False
    for step in range(STEPS - 3):
        made.step(step, batch(step))
    whole = recorded(lambda: made.step(STEPS - 2, batch()))
    model = recorded(lambda: made.backward(batch()))
    return sum(whole.launched.values()) - sum(model.launched.values()), sum(whole.waits.values())


@pytest.mark.parametrize("method", METHODS)
def test_a_step_launches_as_much_for_twelve_layers_as_for_two_and_never_waits(method: str) -> None:
    few, many = operations(method, 2), operations(method, 12)
    # Where the host knows the counts, rows that all keep as many need no filling.
    assert abs(few[0] - many[0]) <= (3 if method in ("magnitude", "random") else 0)
    assert few[1] == many[1] == 0
    if method not in ("l0", "soft-movement", "snip-momentum", "platon", "obert"):
        assert few[0] <= 150
    assert operations(method, 2, "bf16")[0] <= few[0] + 1


def test_the_recorder_sees_what_waits_and_leaves_out_what_launches_nothing() -> None:
    numbers = torch.arange(6.0)
    assert sum(recorded(lambda: numbers.view(2, 3).T[0].detach()).launched.values()) == 0
    assert recorded(lambda: numbers + 1).launched == {"add": 1}
    for waiting in (
        lambda: numbers.sum().item(),
        lambda: bool(numbers.any()),
        lambda: numbers[numbers > 2],
        lambda: numbers.nonzero(),
        lambda: numbers.masked_select(numbers > 2),
        lambda: torch.equal(numbers, numbers),
        lambda: torch.tensor([1, 2]),
        lambda: numbers.new_tensor(1.0),
        lambda: numbers[[1, 2]],
    ):
        recorder: Recorder = recorded(waiting)
        assert sum(recorder.waits.values()) == 1, waiting
    index, owned = torch.tensor([1, 2]), np.ones(3)
    for free in (
        lambda: numbers[index],
        lambda: numbers[0],
        lambda: torch.where(numbers > 1, numbers, 0.0),
        # Nothing is sent; numpy's memory is the host's, from which a copy may be pinned.
        lambda: torch.tensor([]),
        lambda: torch.from_numpy(owned),
    ):
        assert not recorded(free).waits, free


# -- divergence ------------------------------------------------------------------------------------------------------


class Far:
    """A device other than a CPU, as far as `Health` is concerned."""

    type = "far"


def test_numbers_are_read_together_and_the_first_that_went_wrong_is_named() -> None:
    health = Health(Far())  # type: ignore[arg-type]
    one, nan, inf = torch.tensor(1.0), torch.tensor(math.nan), torch.tensor(math.inf)
    health.note(0, one, one, one)
    health.note(1, torch.tensor(2.0), None)
    assert math.isnan(health.loss)
    health.read()
    assert health.loss == 2.0
    health.note(2, one, one, one)
    health.note(3, one, inf, one)
    health.note(4, nan, nan, nan)
    with pytest.raises(TrainingDiverged, match="step 4: the gradient's norm is inf") as error:
        health.read()
    assert error.value.step == 3
    health.note(5, one, one, nan)
    with pytest.raises(TrainingDiverged, match="step 6: a score is NaN"):
        health.read()
    health.read()


class Spoilt(list[Any]):
    """Batches, of which the fifth meets a model that has become no number."""

    def __init__(self, made: Training) -> None:
        super().__init__(batch(step) for step in range(STEPS))
        self.made = made

    def __iter__(self) -> Iterator[Any]:
        for number in range(len(self)):
            if number == 4:
                with torch.no_grad():
                    self.made.model.get_parameter("backbone.classifier.bias")[0] = math.nan
            yield self[number]


@pytest.mark.parametrize("read_every", [1, 3, 100])
def test_a_training_that_diverges_says_the_step_however_seldom_it_is_asked(read_every: int) -> None:
    made = training(METHODS["smp"](), stacked=True)
    made.health.waits = False
    seen: list[Step] = []
    with pytest.raises(TrainingDiverged, match="step 5: the loss is nan"):
        train(
            made,
            Spoilt(made),  # type: ignore[arg-type]
            evaluate=lambda: Evaluation({"accuracy": 0.5}, {}),
            on_step=seen.append,
            read_every=read_every,
        )
    # The steps in between were shown with the loss that was read last.
    assert len(seen) == {1: 4, 3: 5, 100: STEPS}[read_every]


# -- whole sessions: heads, kinds, teachers -------------------------------------------------------------------------


@pytest.fixture
def stacked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs on this CPU are computed as an accelerator computes them."""
    assemble = sessions.assemble
    monkeypatch.setattr(sessions, "assemble", lambda *args, **how: assemble(*args, **{**how, "stacked": True}))


def prepared(task: Path, model: Path, **flags: Any) -> sessions.Session:
    settings = resolve(
        flags={"task": str(task), "method": "smp", "model": str(model), "sparsity": 0.8, "bucket_window": 1, **flags}
    )
    return sessions.prepare(settled(settings), load_data(settings.task, None), make_accelerator("cpu"))


def waits_of(session: sessions.Session) -> Counter[str]:
    """Of the third step of a session."""
    made = session.training()
    made.model.train()
    made.health.waits = False
    batches = list(session.batches(training_order(session.settings, session.train_set)))[:3]
    assert any(int(inputs["attention_mask"].min()) == 0 for inputs, _ in batches[2])
    for step in range(2):
        made.step(step, batches[step])
    return recorded(lambda: made.step(2, batches[2])).waits


@pytest.mark.parametrize(
    ("name", "head"),
    [
        *(("bert", "classifier"), ("bert-mlm", "words"), ("roberta", "words"), ("distilbert", "prototype")),
        *(("electra", "words"), ("mpnet", "words"), ("albert", "words"), ("gpt2", "words"), ("llama", "prototype")),
        *(("deberta-v2", "words"), ("modernbert", "words")),
    ],
)
def test_a_step_of_any_architecture_waits_for_nothing(
    pico: Any, sentiment: Any, stacked: None, name: str, head: str
) -> None:
    found = waits_of(prepared(sentiment.words, pico(name), head=head, dropout=0.1, batch_size=8))
    if name == "modernbert":
        # Its windows are shorter than these texts, so it gets no mask of ours, and asks about its two.
        assert found == {"_local_scalar_dense": 2}
    elif name.startswith("deberta"):
        # Numbers for its relative positions, of which most stay on the host.
        assert set(found) == {"lift_fresh"}
    else:
        assert not found


@pytest.mark.parametrize("head", ["words", "prototype", "classifier"])
def test_a_step_of_spans_waits_for_nothing(pico: Any, quiz: Path, stacked: None, head: str) -> None:
    model = pico("bert-mlm" if head == "words" else "bert")
    assert not waits_of(prepared(quiz, model, head=head, max_length=32, stride=8, batch_size=8))


@pytest.mark.parametrize("kind", ["sentiment", "scores", "quiz"])
def test_a_step_with_a_teacher_waits_for_nothing(
    pico: Any, sentiment: Any, quiz: Path, tmp_path: Path, stacked: None, kind: str
) -> None:
    task = {"sentiment": sentiment.csv, "scores": sentiment.scores, "quiz": quiz}[kind]
    flags: dict[str, Any] = {"max_length": 32, "stride": 8} if kind == "quiz" else {}
    model = pico("bert")
    teacher = prune(str(task), "dense", None, model=str(model), output=tmp_path, max_steps=2, evaluations=1, **flags)
    assert not waits_of(prepared(task, model, teacher=str(teacher.path), batch_size=8, **flags))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_step_in_parts_that_computes_twice_waits_for_nothing(
    pico: Any, sentiment: Any, stacked: None, precision: str
) -> None:
    more = {"micro_batches": 2, "gradient_checkpointing": True, "batch_size": 16, "dropout": 0.1}
    assert not waits_of(prepared(sentiment.csv, pico("bert"), precision=precision, **more))


def test_a_gpu_reads_batches_from_pinned_memory_by_itself(
    pico: Any, sentiment: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = prepared(sentiment.csv, pico("bert"), micro_batches=2, batch_size=16)
    order = training_order(session.settings, session.train_set)
    taken: list[tuple[bool, bool]] = []

    def take(loader: Any, *args: Any, non_blocking: bool, **more: Any) -> None:
        taken.append((loader.pin_memory, non_blocking))

    monkeypatch.setattr(sessions, "prepare_data_loader", take)
    for device in ("cpu", "cuda", "mps"):
        elsewhere = SimpleNamespace(device=torch.device(device), process_index=0, num_processes=1)
        dataclasses.replace(session, accelerator=elsewhere).batches(order)
    assert taken == [(False, False), (True, True), (False, False)]


def test_each_tensor_of_a_batch_is_pinned_and_sent() -> None:
    """What torch and Accelerate make of a list of micro-batches, on a machine with nothing to send to."""

    class Block:
        def __init__(self, *done: str) -> None:
            self.done = done

        def pin_memory(self) -> Block:
            return Block(*self.done, "pinned")

        def to(self, device: str, non_blocking: bool) -> Block:
            return Block(*self.done, f"sent to {device}" if non_blocking else "waited for")

    batch = [({"input_ids": Block(), "attention_mask": Block()}, Block()) for _ in range(2)]
    moved = send_to_device(pin_memory(batch), "far", non_blocking=True)
    assert [len(micro) for micro in moved] == [2, 2]
    for inputs, labels in moved:
        assert [block.done for block in (*inputs.values(), labels)] == [("pinned", "sent to far")] * 3


# -- whole runs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "more"),
    [
        ("smp", {"select": "best"}),
        ("smp", {"micro_batches": 2, "gradient_checkpointing": True}),
        ("movement", {"select": "best"}),
        ("magnitude", {}),
        ("snip-momentum", {"select": "best"}),
        ("l0", {}),
        ("dense", {}),
    ],
)
def test_a_run_is_whole(
    pico: Any, sentiment: Any, tmp_path: Path, stacked: None, method: str, more: dict[str, Any]
) -> None:
    from smpcli import evaluate

    given: dict[str, Any] = {"model": str(pico("bert")), "max_steps": 6, "evaluations": 3, "batch_size": 8}
    sparsity = None if method == "dense" else 0.8
    directory = prune(str(sentiment.csv), method, sparsity, output=tmp_path, **given, **more)
    result = directory.result
    if method != "dense":
        masks = directory.read_masks()
        assert sum(int(mask.sum()) for mask in masks.values()) == result.weights.kept == result.weights.prunable // 5
    # Made again from the files alone, layer by layer, it answers the same.
    assert evaluate(directory.path).metrics == pytest.approx(result.metrics)
