"""The model's own passes, forward and backward: carried out, or recorded once a shape and replayed.

A GPU is done with BERT's thousand kernels sooner than the host has launched them one by one. As a CUDA graph they are
launched at once. Only these passes are recorded: what a step does beside them is few, large kernels, whose numbers
(densities, rates, the penalty's weight) change from step to step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

from smpcli.training.launches import recorded

#: (inputs of the model, labels, the share of the batch's mean loss that they have) -> that loss, a scalar, whose
#: gradients were added to the parameters'.
Pass = Callable[[dict[str, Tensor], Tensor, float], Tensor]
Made = TypeVar("Made")

# Lengths of texts are padded to multiples of this, so that few shapes have to be recorded.
LENGTHS = 8
# More shapes than a training meets of texts up to 512 tokens; what comes later is carried out as it is.
MOST = 128


class Recording(Protocol):
    """Records what a device is told to do."""

    def rehearse(self, call: Callable[[], Made]) -> Made:
        """Carry a call out, where a recording of it would be made: what is made at the first time is made now."""

    def record(self, call: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], None]]:
        """What the call returns, and what carries it out, again and again, in the same memory; it isn't yet.

        Raises RuntimeError for what can't be recorded.
        """


class CudaGraphs:
    """Recording as CUDA graphs, which share their memory: one at a time is replayed."""

    def __init__(self, device: torch.device) -> None:
        self.stream = torch.cuda.Stream(device)
        self.pool = torch.cuda.graph_pool_handle()

    def rehearse(self, call: Callable[[], Made]) -> Made:
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            made = call()
        torch.cuda.current_stream().wait_stream(self.stream)
        return made

    def record(self, call: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], None]]:
        graph = torch.cuda.CUDAGraph()
        # Other threads may go on pinning memory.
        with torch.cuda.graph(graph, self.pool, self.stream, capture_error_mode="thread_local"):
            made = call()
        return made, graph.replay


class Passes:
    """Forward and backward passes of one micro-batch after another, with `begin` before those of a step.

    compute: carries one out; parameters: what gets gradients; recording: None to carry out every one. A shape is
    recorded when it comes for the second time.
    Gradients then lie in the same memory in every step, and whoever takes a `grad` away leaves the memory as it is.
    note: why nothing is recorded any more, None while all is well.
    """

    def __init__(self, compute: Pass, parameters: Iterable[nn.Parameter], recording: Recording | None = None) -> None:
        self.compute = compute
        self.recording = recording
        self.note: str | None = None
        self._parameters = list(parameters)
        self._gradients: list[tuple[nn.Parameter, Tensor]] | None = None
        self._seen: set[object] = set()
        self._recorded: dict[object, _Recorded] = {}

    @property
    def shapes(self) -> int:
        """How many were recorded."""
        return len(self._recorded)

    def begin(self) -> None:
        """Gradients are 0 from here on."""
        if self._gradients:
            for parameter, memory in self._gradients:
                parameter.grad = memory
            torch._foreach_zero_([memory for _, memory in self._gradients])

    def __call__(self, inputs: dict[str, Tensor], labels: Tensor, share: float) -> Tensor:
        if self.recording is None:
            return self.compute(inputs, labels, share)
        if self._gradients is None:
            return self._first(self.recording, inputs, labels, share)
        shape = _shape(inputs, labels, share)
        found = self._recorded.get(shape)
        if found is None and shape in self._seen and len(self._recorded) < MOST:
            found = self._record(self.recording, inputs, labels, share)
            if found is None:
                return self.compute(inputs, labels, share)
            self._recorded[shape] = found
        if found is None:
            self._seen.add(shape)
            return self.recording.rehearse(lambda: self.compute(inputs, labels, share))
        return found.replay(inputs, labels)

    def _first(self, recording: Recording, inputs: dict[str, Tensor], labels: Tensor, share: float) -> Tensor:
        """Carry one out, and see whether it could be recorded, and which parameters it gives a gradient."""
        made: list[Tensor] = []
        seen = recorded(lambda: made.append(recording.rehearse(lambda: self.compute(inputs, labels, share))))
        if seen.waits:
            self._give_up(f"the model asks the device for numbers ({', '.join(sorted(seen.waits))})")
        else:
            reached = [parameter for parameter in self._parameters if parameter.grad is not None]
            self._gradients = [(parameter, parameter.grad) for parameter in reached if parameter.grad is not None]
            self._seen.add(_shape(inputs, labels, share))
        return made[0]

    def _record(
        self, recording: Recording, inputs: dict[str, Tensor], labels: Tensor, share: float
    ) -> _Recorded | None:
        own_inputs, own_labels = {name: tensor.clone() for name, tensor in inputs.items()}, labels.clone()
        try:
            loss, replay = recording.record(lambda: self.compute(own_inputs, own_labels, share))
        except RuntimeError as error:
            self._give_up(str(error).strip().split("\n")[0])
            return None
        return _Recorded(own_inputs, own_labels, loss.detach(), replay)

    def _give_up(self, reason: str) -> None:
        self.recording = None
        self.note = f"the model's passes are launched kernel by kernel, not as CUDA graphs: {reason}"


class _Recorded:
    """One shape's passes, and the memory that they read and write."""

    def __init__(self, inputs: dict[str, Tensor], labels: Tensor, loss: Tensor, replay: Callable[[], None]) -> None:
        self.inputs, self.labels, self.loss, self.again = inputs, labels, loss, replay

    def replay(self, inputs: dict[str, Tensor], labels: Tensor) -> Tensor:
        for name, memory in self.inputs.items():
            memory.copy_(inputs[name])
        self.labels.copy_(labels)
        self.again()
        return self.loss.clone()


def _shape(inputs: dict[str, Tensor], labels: Tensor, share: float) -> object:
    """What two calls must have in common to be one recording."""
    tensors = [*sorted(inputs.items()), ("", labels)]
    return share, tuple((name, tuple(tensor.shape), tensor.dtype) for name, tensor in tensors)
