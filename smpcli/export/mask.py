"""One small file a task: packed mask, head and names, over a base model that many tasks share."""

from __future__ import annotations

SUFFIX = ".smpmask"
