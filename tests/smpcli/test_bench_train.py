"""smp bench train: random weights of stock shapes, turns on an accelerator, what a GPU does. No time is asserted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from smpcli import api
from smpcli.bench.shapes import SHAPES, VOCABULARY, random_checkpoint
from smpcli.bench.train import Case, Contestant, Entrant, Timed, make_entrant
from smpcli.errors import UserError
from smpcli.main import app


def smp(*arguments: str) -> None:
    app(args=["bench", "train", *arguments], standalone_mode=False)


def test_a_shape_is_a_whole_checkpoint_that_goes_afterwards() -> None:
    with random_checkpoint("bert-tiny") as folder:
        model = AutoModel.from_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        with random_checkpoint("bert-tiny") as other:
            again = AutoModel.from_pretrained(other).state_dict()
    assert not Path(folder).exists()
    assert all(torch.equal(tensor, again[name]) for name, tensor in model.state_dict().items())
    # google/bert_uncased_L-2_H-128_A-2 has 4,385,920 weights: 30,522 + 512 + 2 rows of 128, 2 blocks, pooler, norms.
    assert sum(parameter.numel() for parameter in model.parameters()) == 4_385_920
    assert len(tokenizer) == VOCABULARY == model.config.vocab_size
    # A letter each; nothing of a text is lost, and none of it is filler.
    pieces = tokenizer.convert_ids_to_tokens(tokenizer("Abc 7!", "x")["input_ids"])
    assert pieces == ["[CLS]", "a", "##b", "##c", "7", "[UNK]", "[SEP]", "x", "[SEP]"]


@pytest.mark.parametrize(
    ("shape", "millions"), [("minilm", 22.7), ("distilbert", 67.0), ("bert-base", 109.5), ("bert-large", 335.1)]
)
def test_shapes_have_the_published_sizes(shape: str, millions: float) -> None:
    """Weights of the checkpoints of these names, DistilBERT with BERT's segments and pooler (0.6 M)."""
    from transformers import BertConfig, BertModel

    blocks, hidden, heads, inner = SHAPES[shape]
    config = BertConfig(
        num_hidden_layers=blocks, hidden_size=hidden, num_attention_heads=heads, intermediate_size=inner
    )
    with torch.device("meta"):
        model = BertModel(config)
    assert sum(parameter.numel() for parameter in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.05)


def test_dense_has_the_settings_that_methods_share() -> None:
    with random_checkpoint("bert-tiny") as folder:
        case = Case(folder, 2, 4, "fp32", "cpu", 0.9, {"dropout": 0.3, "graph": "off", "penalty": 1.0})
        run = Contestant("dense", case).session.settings.run
    assert (run.dropout, run.graph) == (0.3, "off")


def test_every_method_trains_on_a_shape(capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--batch-size", "2", "--length", "4", "--rounds", "1", "--precision", "fp32", "--device", "cpu"]
    smp("smp", "magnitude", "--shape", "bert-tiny", *small, "--no-memory", "--json")
    rows = json.loads(capsys.readouterr().out)
    assert [row["method"] for row in rows] == ["dense", "smp", "magnitude"]
    # A CPU has no kernels to count.
    assert all(set(row) == {"method", "seconds", "ratio", "peak_memory"} for row in rows)
    assert all(row["seconds"] > 0 and row["peak_memory"] == 0 for row in rows)


def test_operations_are_counted_on_a_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Case] = []

    def count(methods: list[str], case: Case) -> list[Any]:
        seen.append(case)
        return []

    monkeypatch.setattr("smpcli.bench.operations.count_operations", count)
    smp("smp", "--operations", "--shape", "bert-tiny", "--json")
    assert "smp-shape-" in seen[0].model and not Path(seen[0].model).exists()
    with pytest.raises(UserError, match=r"^unknown shape 'tiny'; did you mean 'bert-tiny'"):
        api.bench_operations(shape="tiny")


def test_a_shape_is_refused_in_a_line() -> None:
    with pytest.raises(UserError, match=r"^unknown shape 'bert-bse'; did you mean 'bert-base'\?$"):
        api.bench_train(shape="bert-bse")
    with pytest.raises(UserError, match=r"^--shape makes a model of its own; leave out --model, or --shape$"):
        api.bench_train(shape="bert-base", model="minilm")


def test_a_shape_that_finds_no_room_is_refused_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import BertModel

    def full(self: Any, folder: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(BertModel, "save_pretrained", full)
    with pytest.raises(
        UserError, match=r"^can't write .*smp-shape-\S+: No space left on device; make room, or"
    ) as error:
        api.bench_operations(["smp"], shape="bert-tiny")
    assert "\n" not in str(error.value)


def test_what_a_gpu_tells_is_shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [Timed("dense", 0.031, 1.0, 2**31, 1188.0, 0.0132), Timed("smp", 0.016, 0.5, 2**30)]
    monkeypatch.setattr(api, "bench_train", lambda *args, **more: rows)
    smp()
    shown = [line.split() for line in capsys.readouterr().out.splitlines() if line.split()]
    assert shown[0] == "method seconds a step ratio to dense peak memory kernels a step device works, s".split()
    assert shown[2] == ["dense", "0.0310", "1.00", "2,048", "MiB", "1,188", "0.0132"]
    assert shown[3] == ["smp", "0.0160", "0.50", "1,024", "MiB"]
    smp("--json")
    told, silent = json.loads(capsys.readouterr().out)
    assert (told["kernels"], told["device_seconds"]) == (1188.0, 0.0132)
    assert "kernels" not in silent


class Queue(Entrant):
    """A device that takes `seconds` for a step, which it begins when it is waited for. checked: turns so far."""

    def __init__(self, seconds: float, kind: str = "cuda") -> None:
        super().__init__(range(20), torch.device(kind))
        self.seconds = seconds
        self.now = self.queued = 0.0
        self.steps = self.checked = 0

    def step(self, batch: Any) -> None:
        self.steps += 1
        self.queued += self.seconds if self.steps > 1 else 100.0
        # Work that a host does before it hands the step over.
        self.now += 0.001

    def check(self) -> None:
        assert not self.queued, "asked before the device is done"
        self.checked += 1

    def wait(self, device: torch.device) -> None:
        assert device == self.device
        self.now, self.queued = self.now + self.queued, 0.0


def test_a_turn_on_an_accelerator_lasts_until_its_work_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    queue = Queue(2.0)
    monkeypatch.setattr(torch.accelerator, "synchronize", queue.wait)
    monkeypatch.setattr("smpcli.bench.train.time.perf_counter", lambda: queue.now)
    # The first step, of 100 s, is waited for before the clock starts.
    assert queue.turn() == pytest.approx(2.001)
    assert (queue.steps, queue.checked) == (8, 1)


def event(kind: str, start: float, end: float, annotation: bool = False) -> Any:
    return SimpleNamespace(
        device_type=SimpleNamespace(name=kind),
        time_range=SimpleNamespace(start=start, end=end),
        is_user_annotation=annotation,
    )


def test_what_a_gpu_does_is_the_union_of_its_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = [event("CUDA", 10, 40), event("CUDA", 30, 70), event("CUDA", 100, 130)]
    others = [event("CPU", 0, 500), event("CUDA", 0, 500, annotation=True)]
    found = [*kernels, *others]

    class Profiler:
        def __init__(self, activities: list[Any]) -> None:
            assert [one.name for one in activities] == ["CPU", "CUDA"]

        def __enter__(self) -> Profiler:
            return self

        def __exit__(self, *error: object) -> None:
            assert queue.queued == 0, "looked at before the device is done"

        def events(self) -> list[Any]:
            return found

    queue = Queue(1.0)
    monkeypatch.setattr(torch.profiler, "profile", Profiler)
    monkeypatch.setattr(torch.cuda, "synchronize", queue.wait)
    work = queue.work()
    # Three kernels in three steps; 10 to 70 and 100 to 130 microseconds.
    assert work is not None
    assert work.kernels == 1
    assert work.seconds == pytest.approx(30e-6)
    assert queue.steps == 3
    found[:] = others
    assert queue.work() is None
    assert Queue(1.0, "cpu").work() is None


def test_memory_on_a_gpu_is_what_a_turn_adds(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = {"now": 0, "peak": 0}

    class Hungry(Queue):
        def __init__(self, weights: int, activations: int) -> None:
            super().__init__(1.0)
            self.activations = activations
            # What is set up may take more than any step.
            memory["peak"] = memory["now"] + 1000
            memory["now"] += weights

        def turn(self) -> float:
            memory["peak"] = max(memory["peak"], memory["now"] + self.activations)
            return 1.0

    def reset(device: torch.device) -> None:
        memory["peak"] = memory["now"]

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda *device: memory["now"])
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda *device: memory["peak"])
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", reset)
    assert make_entrant(lambda: Hungry(50, 7))[1] == 57
    assert make_entrant(lambda: Hungry(20, 5))[1] == 25


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """A bench sets torch's threads for the whole process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
