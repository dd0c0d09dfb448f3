"""The model's passes replayed: the training that it is without, shown by a tape that replays as a CUDA graph does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pico_training import METHODS, STEPS, batch, training
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pruners.dense import Dense
from pruners.masking import show_masks
from smpcli.encoding.batches import Encoded, LengthBuckets, training_loader
from smpcli.training.loop import Training
from smpcli.training.passes import Made, Passes

BEFORE: dict[str, Callable[[], Any]] = {**METHODS, "dense": Dense}


class Tape(TorchDispatchMode):
    """What was computed, to be computed again in the same memory: numbers of Python stay what they were, as in a
    CUDA graph; what is only looked at, or asked for as memory, was done once."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.done: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if not func.is_view and not func.overloadpacket.__name__.startswith(("empty", "new_empty")):
            self.done.append((func, args, kwargs or {}, made))
        return made

    @torch.no_grad()
    def replay(self) -> None:
        for func, args, kwargs, made in self.done:
            again = func(*args, **kwargs)
            for old, new in zip(tree_leaves(made), tree_leaves(again), strict=True):
                if isinstance(old, Tensor) and old is not new:
                    old.copy_(new)


class Tapes:
    """A recording on a CPU. broken: as a device has it that can't record."""

    def __init__(self, broken: bool = False) -> None:
        self.broken = broken
        self.recorded = self.replayed = 0

    def rehearse(self, call: Callable[[], Made]) -> Made:
        return call()

    def record(self, call: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], None]]:
        if self.broken:
            raise RuntimeError("operation not permitted when stream is capturing\nmore of it")
        # What the device is told while it records isn't carried out: gradients are as they were.
        gradients = [one.grad for one in self.parameters if one.grad is not None]
        before = [gradient.clone() for gradient in gradients]
        tape = Tape()
        with tape:
            made = call()
        for gradient, old in zip(gradients, before, strict=True):
            gradient.copy_(old)
        self.recorded += 1

        def replay() -> None:
            self.replayed += 1
            tape.replay()

        return made, replay

    parameters: list[torch.nn.Parameter]


def with_tapes(made: Training, tapes: Tapes) -> Training:
    """The same training, recorded."""
    tapes.parameters = list(made.model.parameters())
    made.passes = Passes(made._pass, [one for one in tapes.parameters if one.requires_grad], tapes)
    return made


def trained(made: Training) -> list[Tensor]:
    return [part.detach().clone() for part in made._trained]


@pytest.mark.parametrize(("parts", "precision"), [(1, "bf16"), (3, "fp32")])
@pytest.mark.parametrize("method", BEFORE)
def test_a_replayed_training_is_the_same_training(method: str, parts: int, precision: str) -> None:
    ended, tapes = [], Tapes()
    for recorded in (False, True):
        made = training(BEFORE[method](), stacked=True, precision=precision)
        if recorded:
            with_tapes(made, tapes)
        torch.manual_seed(1)
        losses = []
        for step in range(STEPS):
            made.step(step, batch(step, parts, 9 if step % 3 else 5))
            losses.append(made.health.loss)
            if step == 4:
                # As an evaluation does: whole and in float32.
                show_masks(made.layers)
        made.finish()
        ended.append((losses, trained(made), [layer.mask.clone() for layer in made.layers]))
    # Two lengths. A step's first micro-batch is the one that comes for the second time at the first step, too.
    assert tapes.recorded == 2
    assert tapes.replayed == STEPS * parts - 2
    assert ended[0][0] == ended[1][0]
    for one, other in zip(ended[0][1] + ended[0][2], ended[1][1] + ended[1][2], strict=True):
        assert torch.equal(one, other)


def test_what_can_t_be_recorded_is_carried_out() -> None:
    ended = []
    for tapes in (None, Tapes(broken=True)):
        made = training(METHODS["smp"](), stacked=True)
        if tapes is not None:
            with_tapes(made, tapes)
        for step in range(4):
            made.step(step, batch(step, 2))
        ended.append((trained(made), made.passes.note))
    assert all(torch.equal(one, other) for one, other in zip(ended[0][0], ended[1][0], strict=True))
    assert ended[0][1] is None
    assert ended[1][1] == (
        "the model's passes are launched kernel by kernel, not as CUDA graphs: "
        "operation not permitted when stream is capturing"
    )


def test_a_model_that_asks_the_device_is_never_recorded() -> None:
    made, tapes = training(METHODS["movement"](), stacked=True), Tapes()
    with_tapes(made, tapes)
    made.layers[0].module.register_forward_pre_hook(lambda *_: bool(made.layers[0].mask.any()) and None)
    for step in range(4):
        made.step(step, batch(step))
    assert tapes.recorded == 0
    assert made.passes.note is not None and made.passes.note.endswith("for numbers (_local_scalar_dense)")


def test_what_the_loss_does_not_reach_gets_no_gradient() -> None:
    """AdamW would let it decay."""
    made = training(Dense(), stacked=True)
    model = made.model
    model.unused = torch.nn.Parameter(torch.ones(3, 3))
    with_tapes(made, tapes := Tapes())
    for step in range(5):
        made.backward(batch(step))
        assert model.unused.grad is None
        made.optimizer.zero_grad()
    assert tapes.replayed == 4


def test_gradients_are_those_of_the_step_alone() -> None:
    made = training(Dense(), stacked=True)
    with_tapes(made, Tapes())
    weight = next(one for name, one in made.model.named_parameters() if name.endswith("classifier.weight"))
    found = []
    for _ in range(4):
        made.backward(batch(0, 2))
        assert weight.grad is not None
        found.append(weight.grad.clone())
        made.optimizer.zero_grad()
    assert all(torch.equal(found[0], other) for other in found[1:])


# -- lengths ---------------------------------------------------------------------------------------------------------


def test_texts_are_padded_to_multiples_as_far_as_the_longest() -> None:
    lengths = [3, 8, 9, 13]
    columns = {"input_ids": [[7] * length for length in lengths], "attention_mask": [[1] * n for n in lengths]}
    encoded = Encoded(columns, torch.arange(4), {"input_ids": 2, "attention_mask": 0})
    found = {}
    for multiple in (1, 8):
        loader = training_loader(encoded, LengthBuckets(encoded.lengths, 1, 0, 1), multiple=multiple)
        for [(inputs, labels)] in loader:
            length = lengths[int(labels)]
            assert inputs["input_ids"][0].tolist() == [7] * length + [2] * (inputs["input_ids"].shape[1] - length)
            assert int(inputs["attention_mask"].sum()) == length
            found[multiple, length] = inputs["attention_mask"].shape[1]
    assert found == {(1, 3): 3, (1, 8): 8, (1, 9): 9, (1, 13): 13, (8, 3): 8, (8, 8): 8, (8, 9): 13, (8, 13): 13}
