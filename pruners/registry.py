"""Name -> pruner: the built-in methods, and what other packages publish as entry points of group "smp.pruners".

Listing imports no plugin and no torch; a plugin is imported when its method is asked for by name.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pruners.base import Pruner

GROUP = "smp.pruners"
OWN_PACKAGE = "smp (built in)"


class PrunerError(Exception):
    """A method that can't be used as asked; the message is one line for the person who asked."""


@dataclass(frozen=True)
class Entry:
    """One published method: its name, "module:Class", the package it comes from, and a line about it."""

    name: str
    target: str
    package: str
    summary: str = ""


_BUILT_IN = [
    Entry(
        "smp",
        "pruners.smp:SMP",
        OWN_PACKAGE,
        "Static Model Pruning: weights stay frozen, only which of them to keep is learned.",
    ),
    Entry(
        "movement",
        "pruners.movement:Movement",
        OWN_PACKAGE,
        "Movement pruning: scores and weights are trained, the highest scores of each matrix stay.",
    ),
    Entry(
        "soft-movement",
        "pruners.soft_movement:SoftMovement",
        OWN_PACKAGE,
        "Soft movement pruning: one global threshold on the scores, steered to the sparsity asked for.",
    ),
    Entry(
        "l0",
        "pruners.l0:L0",
        OWN_PACKAGE,
        "L0 regularisation: hard-concrete gates and weights are trained, steered to the sparsity asked for.",
    ),
    Entry(
        "magnitude",
        "pruners.magnitude:Magnitude",
        OWN_PACKAGE,
        "Magnitude pruning: weights are fine-tuned, the largest of each matrix stay.",
    ),
    Entry("dense", "pruners.dense:Dense", OWN_PACKAGE, "Fine-tuning without pruning: the baseline."),
]


def entries() -> dict[str, list[Entry]]:
    """All published methods by name; a name with more than one entry is a collision (`load` refuses it)."""
    found: dict[str, list[Entry]] = {entry.name: [entry] for entry in _BUILT_IN}
    for point in sorted(entry_points(group=GROUP), key=lambda point: (point.name, point.value)):
        package = f"{point.dist.name} {point.dist.version}" if point.dist else "unknown package"
        entry = Entry(point.name, point.value, package)
        others = found.setdefault(point.name, [])
        # A package that is visible twice on sys.path (a checkout and its installation) is one owner.
        if entry not in others:
            others.append(entry)
    return found


def load(name: str) -> type[Pruner]:
    """Import and return the pruner class called `name`.

    Raises KeyError when nobody publishes it, PrunerError when two packages do, or when its package fails.
    """
    owners = entries()[name]
    if len(owners) > 1:
        raise PrunerError(
            f"two packages publish a method '{name}': "
            + " and ".join(f"{owner.package} ({owner.target})" for owner in owners)
            + "; uninstall or rename one"
        )
    owner = owners[0]
    module, _, attribute = owner.target.partition(":")
    try:
        pruner = getattr(import_module(module), attribute)
    except (Exception, SystemExit) as error:
        if owner.package == OWN_PACKAGE:
            raise
        raise PrunerError(
            f"method '{name}' of package {owner.package} fails at import ({type(error).__name__}: {error}); "
            "update or uninstall that package"
        ) from error
    _check(pruner, name, owner)
    return pruner  # type: ignore[no-any-return]


def _check(pruner: object, name: str, owner: Entry) -> None:
    from pruners.base import Pruner, PrunerSettings

    def broken(reason: str) -> PrunerError:
        return PrunerError(f"method '{name}' of package {owner.package}: {owner.target} {reason}")

    if not (isinstance(pruner, type) and issubclass(pruner, Pruner)):
        raise broken("is no subclass of pruners.Pruner")
    for attribute in ("name", "title"):
        if not isinstance(getattr(pruner, attribute, None), str):
            raise broken(f"has no {attribute}")
    if pruner.name != name:
        raise PrunerError(
            f"method '{name}' of package {owner.package}: the class calls itself '{pruner.name}'; "
            "entry point and class must agree"
        )
    if not (isinstance(pruner.Settings, type) and issubclass(pruner.Settings, PrunerSettings)):
        raise broken("has Settings that are no subclass of pruners.PrunerSettings")
