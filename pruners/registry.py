"""Names that stand for code, built in or published by other packages: methods, export formats, engines of sweeps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Generic, TypeVar

from pruners.errors import PrunerError, unknown

T = TypeVar("T")
OWN_PACKAGE = "smp (built in)"


@dataclass(frozen=True)
class Entry:
    """What a name stands for: "module:attribute" or a module, the package it comes from, and a line about it."""

    name: str
    target: str
    package: str
    summary: str = ""


class Registry(Generic[T]):
    """Things of one kind by name. Listing imports none of them; one is imported when it is loaded.

    kind: what messages call them; built_in: name -> (target, summary); hint: where a person finds the names.
    group: of entry points, by which other packages publish more; check: raises PrunerError for what can't be one.
    """

    def __init__(
        self,
        kind: str,
        built_in: Mapping[str, tuple[str, str]],
        hint: str = "",
        group: str | None = None,
        check: Callable[[Any, Entry], None] | None = None,
    ) -> None:
        self.kind, self.hint, self.group, self.check = kind, hint, group, check
        self._built_in = {name: Entry(name, target, OWN_PACKAGE, line) for name, (target, line) in built_in.items()}

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries())

    def entries(self) -> dict[str, list[Entry]]:
        """All that is published, by name; a name with more than one entry is a collision (`load` refuses it)."""
        found = {name: [entry] for name, entry in self._built_in.items()}
        if self.group is None:
            return found
        from importlib.metadata import entry_points

        for point in sorted(entry_points(group=self.group), key=lambda point: (point.name, point.value)):
            package = f"{point.dist.name} {point.dist.version}" if point.dist else "unknown package"
            entry = Entry(point.name, point.value, package)
            others = found.setdefault(point.name, [])
            # A package that is visible twice on sys.path (a checkout and its installation) is one owner.
            if entry not in others:
                others.append(entry)
        return found

    def require(self, name: str, where: str = "") -> list[Entry]:
        """The entries of a name. Raises UserError, with the nearest name, where nobody publishes it.

        where: what named it, for the message.
        """
        found = self.entries()
        if name not in found:
            raise unknown(self.kind, name, found, "; ".join(filter(None, (where, self.hint))))
        return found[name]

    def load(self, name: str) -> T:
        """Import and return what `name` stands for.

        Raises UserError when nobody publishes it, PrunerError when two packages do, or when its package fails.
        """
        owners = self.require(name)
        if len(owners) > 1:
            packages = " and ".join(f"{owner.package} ({owner.target})" for owner in owners)
            raise PrunerError(f"two packages publish a {self.kind} '{name}': {packages}", "uninstall or rename one")
        (owner,) = owners
        module, _, attribute = owner.target.partition(":")
        try:
            found = import_module(module)
            if attribute:
                found = getattr(found, attribute)
        except (Exception, SystemExit) as error:
            if owner.package == OWN_PACKAGE:
                raise
            raise PrunerError(
                f"{self.kind} '{name}' of package {owner.package} fails at import ({type(error).__name__}: {error})",
                "update or uninstall that package",
            ) from error
        if self.check is not None:
            self.check(found, owner)
        return found  # type: ignore[return-value]
