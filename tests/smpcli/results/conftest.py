from __future__ import annotations

import handmade
import pytest


@pytest.fixture
def make_run() -> handmade.MakeRun:
    return handmade.make_run
