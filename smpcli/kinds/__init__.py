"""How each kind of task is encoded, learned, measured and answered. What needs no model: smpcli/tasks/traits.py."""

from __future__ import annotations

from smpcli.kinds.classification import Classification
from smpcli.kinds.kind import Kind as Kind
from smpcli.kinds.regression import Regression
from smpcli.kinds.span import Span

KINDS: dict[str, Kind] = {"classification": Classification(), "regression": Regression(), "span": Span()}
