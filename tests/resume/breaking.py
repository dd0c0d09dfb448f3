"""Breaking a run off, in its own process, after a step."""

from __future__ import annotations

from collections.abc import Callable

from smpcli.training.progress import Step


class Watcher:
    """Keeps what it is told, and does something after a step."""

    def __init__(self, step: int = 0, action: Callable[[], object] = lambda: None) -> None:
        self.at, self.action = step, action
        self.notes: list[str] = []
        self.steps: list[int] = []

    def phase(self, name: str) -> None: ...

    def note(self, text: str) -> None:
        self.notes.append(text)

    def step(self, step: Step) -> None:
        self.steps.append(step.step)
        if step.step == self.at:
            self.action()


class Broken(Exception):
    pass


def break_off() -> None:
    raise Broken
