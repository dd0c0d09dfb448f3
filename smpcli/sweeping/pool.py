"""The engine for short runs on a GPU: processes that stay, and compute on it at the same time where they can."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from smpcli.errors import UserError
from smpcli.sweeping import cuda_service
from smpcli.sweeping.engines import LocalEngine, cuda_devices


class PoolEngine(LocalEngine):
    """Processes here, each of which makes one run after another: libraries and the device are set up once in each.

    One that dies fails its own run alone, and the next run gets a new one. Several on one GPU compute through CUDA's
    multi-process service where it is installed.
    """

    lasting = True

    def __init__(self, workers: int | None, address: str | None = None) -> None:
        super().__init__(workers, address)
        self._service: cuda_service.Service | None = None

    def start(self, name: str, job: Mapping[str, Any]) -> None:
        # Tried once, when something is to compute there.
        if self.remark is None and job["settings"].get("device", "auto") not in ("cpu", "mps"):
            self.remark = self._start_service()
        super().start(name, job)

    def _start_service(self) -> str:
        devices = cuda_devices()
        if not cuda_service.worthwhile(self.slots, devices):
            return ""
        try:
            self._service = cuda_service.Service(devices)
        except UserError as error:
            return f"workers take turns on a GPU, as CUDA's multi-process service doesn't run: {error}"
        gpus = "a GPU" if len(devices) == 1 else f"{len(devices)} GPUs"
        return f"{self.slots} workers share {gpus} through CUDA's multi-process service"

    def _share(self, slot: int) -> dict[str, str]:
        share = super()._share(slot)
        if self._service is not None:
            share |= self._service.variables(share["CUDA_VISIBLE_DEVICES"])
        return share

    def stop(self) -> None:
        super().stop()
        if self._service is not None:
            self._service.stop()
