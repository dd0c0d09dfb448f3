"""One run on several processes: what `accelerate launch` starts must begin alike and end with the same masks.

In between, each process computes the gradient of its part of the batch, and DistributedDataParallel averages dL/dW'
of the masked matrices like any other gradient, before the straight-through rule makes it that of scores and weights.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, set_seed
from torch import Tensor

from pruners.masks.layer import MaskedLayer
from smpcli.errors import UserError


def check_batch(batch_size: int, accelerator: Accelerator) -> None:
    """Raise `UserError` where processes can't share a batch evenly."""
    processes = accelerator.num_processes
    if batch_size % processes:
        raise UserError(
            f"a batch of {batch_size} can't be shared by {processes} processes",
            f"--batch-size must be a multiple of {processes}",
        )


def start_alike(layers: Sequence[MaskedLayer], accelerator: Accelerator, seed: int) -> None:
    """Give every process the first one's scores, and dropout of its own. With one process: nothing."""
    if accelerator.num_processes == 1:
        return
    for layer in layers:
        # The model's own parameters are sent round when it is wrapped.
        for part in layer.score_parameters():
            broadcast(part.data)
    set_seed(seed, device_specific=True)


@contextmanager
def drawing_alike(accelerator: Accelerator) -> Iterator[None]:
    """In here every process draws the same random numbers, for gates. With one process: nothing."""
    if accelerator.num_processes == 1:
        yield
        return
    device = accelerator.device
    seed = broadcast(torch.randint(2**62, (1,), device=device))
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(int(seed))
        yield


def largest(numbers: Sequence[int], accelerator: Accelerator) -> list[int]:
    """The largest of all processes' numbers at each place, for what they must do together."""
    if accelerator.num_processes == 1:
        return list(numbers)
    found = accelerator.gather(torch.tensor([numbers], device=accelerator.device))
    return [int(number) for number in found.amax(0)]


def everyones(tensor: Tensor, accelerator: Accelerator) -> list[Tensor]:
    """A tensor of one size that each process has, of all of them in order. Every process must ask."""
    if accelerator.num_processes == 1:
        return [tensor]
    return list(accelerator.gather(tensor.to(accelerator.device)[None]).cpu())


def check_agreement(layers: Sequence[MaskedLayer], accelerator: Accelerator) -> None:
    """Raise RuntimeError unless every process ended with the same masks, bit by bit."""
    if accelerator.num_processes == 1:
        return
    digest = hashlib.sha256()
    for layer in layers:
        digest.update(np.packbits(layer.mask.cpu().numpy()).tobytes())
    own = torch.frombuffer(bytearray(digest.digest()[:8]), dtype=torch.int64).to(accelerator.device)
    if len(set(accelerator.gather(own).tolist())) > 1:
        raise RuntimeError("the processes ended with different masks")
