"""Which runs a comparison shows: --task, --method, --where, and --sort."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from smpcli.errors import UserError, unknown


@dataclass(frozen=True)
class Filter:
    """tasks, methods: names, any of which a run may have (none: all). where: key -> the values it may have."""

    tasks: tuple[str, ...]
    methods: tuple[str, ...]
    where: Mapping[str, tuple[str, ...]]

    @classmethod
    def of(cls, tasks: Sequence[str] = (), methods: Sequence[str] = (), where: Sequence[str] = ()) -> Filter:
        """where: "key=value" texts; the same key again is another value that will do. Raises `UserError`."""
        wanted: dict[str, tuple[str, ...]] = {}
        for text in where:
            key, equals, value = (part.strip() for part in text.partition("="))
            if not equals or not key:
                raise UserError(f"--where takes key=value, such as init=zero or seed=0, not '{text}'")
            key = key.replace("-", "_")
            wanted[key] = (*wanted.get(key, ()), value)
        return cls(tuple(tasks), tuple(methods), wanted)

    def check(self, runs: Sequence[Mapping[str, str]]) -> None:
        """Raise `UserError` for a name that none of the runs (their facts) knows."""
        for kind, names in (("task", self.tasks), ("method", self.methods)):
            known = {run[f"run.{kind}"] for run in runs}
            for name in names:
                if runs and name not in known:
                    raise unknown(kind, name, known, "no run here has it")
        keys = {key for run in runs for key in run}
        for key in self.where:
            if runs and key not in keys:
                raise unknown("setting or result", key, keys, "settings.yaml and result.json of the runs hold it")

    def keeps(self, run: Mapping[str, str]) -> bool:
        """Whether a run with these facts is shown."""
        return (
            (not self.tasks or run["run.task"] in self.tasks)
            and (not self.methods or run["run.method"] in self.methods)
            and all(any(_same(run.get(key), value) for value in values) for key, values in self.where.items())
        )


def facts(result: Mapping[str, str], settings: Mapping[str, str]) -> dict[str, str]:
    """All that can be asked of a run: settings and results by dotted name and, where that is clear, by its last part.

    A setting wins over a result of the same name.
    """
    found: dict[str, str] = {}
    for source in (result, settings):
        last = [key.rsplit(".", 1)[-1] for key in source]
        found |= {short: source[key] for short, key in zip(last, source, strict=True) if last.count(short) == 1}
        found |= source
    return found


def _same(value: str | None, wanted: str) -> bool:
    if value is None:
        return False
    if value == wanted:
        return True
    try:
        return float(value) == float(wanted)
    except ValueError:
        return value.lower() in ("true", "false", "null") and value.lower() == wanted.lower()
