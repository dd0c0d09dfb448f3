"""Where things are: recipes beside the code, caches per user."""

from __future__ import annotations

import os
from pathlib import Path

_HERE = Path(__file__).resolve().parent
# An installation carries recipes/ inside the package; a checkout has it beside the package.
RECIPES = _HERE / "recipes" if (_HERE / "recipes").is_dir() else _HERE.parent / "recipes"


def cache_dir() -> Path:
    """The per-user cache: $SMP_CACHE_DIR, else `smp` where the system keeps caches (on Linux $XDG_CACHE_HOME)."""
    if explicit := os.environ.get("SMP_CACHE_DIR"):
        return Path(explicit)
    from platformdirs import user_cache_path

    return user_cache_path("smp", appauthor=False)
