"""The pruning methods. Imports torch and nothing heavier: no models, no files, no command line.

To write a method, import what you need from here; `pruners.base.Pruner` is the whole contract.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pruners.base import Pruner, PrunerSettings, setting
    from pruners.masks.layer import MaskedLayer
    from pruners.masks.selection import top_k_mask
    from pruners.scored import ScoredPruner, ScoredSettings

_HOME = {
    "Pruner": "base",
    "PrunerSettings": "base",
    "setting": "base",
    "MaskedLayer": "masks.layer",
    "ScoredPruner": "scored",
    "ScoredSettings": "scored",
    "top_k_mask": "masks.selection",
}
__all__ = ["MaskedLayer", "Pruner", "PrunerSettings", "ScoredPruner", "ScoredSettings", "setting", "top_k_mask"]


def __getattr__(name: str) -> Any:
    # Lazy, so that methods can be listed without importing torch.
    if name in _HOME:
        from importlib import import_module

        return getattr(import_module(f"pruners.{_HOME[name]}"), name)
    raise AttributeError(f"module 'pruners' has no attribute '{name}'")
