"""Ctrl-C and SIGTERM while a run goes on: noted at once, obeyed where nothing is lost."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Stopped(BaseException):
    """Raised out of what may be interrupted (an evaluation); not an `Exception`, so nothing handles it as one."""


class Interruption:
    """While it is entered, the first SIGINT or SIGTERM is only noted in `signal`; a second one acts as ever.

    Outside the main thread, which alone may handle signals, it notes nothing.
    """

    def __init__(self) -> None:
        self.signal = 0
        self._at_once = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    @property
    def code(self) -> int:
        """The exit code of a process that a signal ends, as shells count."""
        return 128 + self.signal

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """In here a signal raises `Stopped`."""
        self._at_once = True
        try:
            if self.signal:
                raise Stopped
            yield
        finally:
            self._at_once = False

    def _note(self, number: int, frame: object) -> None:
        self.__exit__()
        self.signal = number
        if self._at_once:
            raise Stopped
