"""Where a run computes, and in which precision. Devices and processes are Accelerate's business."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from accelerate import Accelerator

from smpcli.errors import UserError

if TYPE_CHECKING:
    from smpcli.settings import Settings


@dataclass(frozen=True)
class Compute:
    """What a run computes with. device_name: a GPU's; auto: whether the hardware chose the precision."""

    device: str
    device_name: str | None
    precision: str
    auto: bool
    threads: int
    processes: int

    def __str__(self) -> str:
        named = f" ({self.device_name})" if self.device_name else ""
        chosen = " (auto)" if self.auto else ""
        threads = f"{self.threads} thread{'s' * (self.threads != 1)}"
        processes = f", {self.processes} processes" if self.processes > 1 else ""
        return f"device {self.device}{named}, precision {self.precision}{chosen}, {threads}{processes}"


def compute_of(accelerator: Accelerator, precision: str) -> Compute:
    """What a run computes with, from the precision that it was given: "auto", "fp32" or "bf16"."""
    device = accelerator.device
    return Compute(
        device=str(device),
        device_name=torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        precision=resolve_precision(precision, device),
        auto=precision == "auto",
        threads=torch.get_num_threads(),
        processes=accelerator.num_processes,
    )


def make_accelerator(device: str, track: str | None = None, folder: Path | None = None) -> Accelerator:
    """Accelerate for a --device of auto, cpu, cuda, cuda:N or mps. Raises UserError when it isn't there.

    track: a tracker, which keeps its files in `folder`.
    """
    kind, _, index = device.partition(":")
    if kind == "cuda":
        count = torch.cuda.device_count()
        if int(index or 0) >= count:
            raise UserError(f"no device {device}: this machine has {count} CUDA devices", "use --device auto or cpu")
        torch.cuda.set_device(int(index or 0))
    if kind == "mps" and not torch.backends.mps.is_available():
        raise UserError("no device mps on this machine", "use --device auto or cpu")
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    # Accelerate joins several processes on processors only where it is told that they are meant.
    on_cpu = kind == "cpu" or (launched > 1 and not torch.cuda.is_available())
    accelerator = Accelerator(cpu=on_cpu, log_with=track, project_dir=folder)
    if accelerator.num_processes != launched:
        raise UserError(
            f"{launched} processes were started, of which Accelerate joins {accelerator.num_processes}",
            "start them with `accelerate launch` or torchrun, and this --device on each",
        )
    return accelerator


def settled(settings: Settings) -> Settings:
    """The settings with the precision that `auto` comes to on their device, as a run's name depends on it.

    Raises UserError when the device isn't there.
    """
    wanted = settings.run.precision
    if wanted != "auto":
        return settings
    return settings.replace(precision=resolve_precision(wanted, make_accelerator(settings.run.device).device))


def resolve_precision(wanted: str, device: torch.device) -> str:
    """Of "auto", "fp32" and "bf16" the last two as they are; auto is bf16 where the hardware has units for it."""
    if wanted != "auto":
        return wanted
    return "bf16" if _has_bfloat16_units(device) else "fp32"


def _has_bfloat16_units(device: torch.device) -> bool:
    if device.type == "cuda":
        # From Ampere on; older GPUs only emulate it.
        return torch.cuda.get_device_capability(device)[0] >= 8
    if device.type == "cpu":
        try:
            return "amx_bf16" in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return False
    return False


def training_context(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """What the forward pass of a training step runs in. Evaluation is always in float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
