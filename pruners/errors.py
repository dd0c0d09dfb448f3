"""What can be wrong with a method or with its scores."""

from __future__ import annotations


class PrunerError(Exception):
    """A method that can't be used as asked; the message is one line for the person who asked."""


class ScoreError(ValueError):
    """Scores that can't be ranked."""
