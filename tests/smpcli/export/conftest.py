"""Finished pico runs that the tests of exports only read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from smpcli import prune

MakeRun = Callable[..., Path]


@pytest.fixture(scope="session")
def finished(pico: Any, sentiment: Any, tmp_path_factory: pytest.TempPathFactory) -> MakeRun:
    """finished("bert", "csv", 0.8) is the folder of a short run; each is made once."""
    made: dict[tuple[Any, ...], Path] = {}

    def get(model: str = "bert", task: str = "csv", sparsity: float = 0.8, **settings: Any) -> Path:
        key = (model, task, sparsity, *sorted(settings.items()))
        if key not in made:
            made[key] = prune(
                str(getattr(sentiment, task)),
                sparsity=sparsity,
                model=str(pico(model)),
                max_steps=3,
                batch_size=8,
                max_length=24,
                output=tmp_path_factory.mktemp("exports"),
                **settings,
            ).path
        return made[key]

    return get
