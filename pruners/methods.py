"""The pruning methods by name: the built-in ones, and what other packages publish as entry points of "smp.pruners".

Listing imports no plugin and no torch; a plugin is imported when its method is asked for by name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pruners.errors import PrunerError
from pruners.registry import Entry, Registry

if TYPE_CHECKING:
    from pruners.base import Pruner

_BUILT_IN = {
    "smp": (
        "pruners.smp:SMP",
        "Static Model Pruning: weights stay frozen, only which of them to keep is learned.",
    ),
    "movement": (
        "pruners.movement:Movement",
        "Movement pruning: scores and weights are trained, the highest scores of each matrix stay.",
    ),
    "soft-movement": (
        "pruners.soft_movement:SoftMovement",
        "Soft movement pruning: one global threshold on the scores, steered to the sparsity asked for.",
    ),
    "l0": (
        "pruners.l0:L0",
        "L0 regularisation: hard-concrete gates and weights are trained, steered to the sparsity asked for.",
    ),
    "magnitude": (
        "pruners.magnitude:Magnitude",
        "Magnitude pruning: weights are fine-tuned, the largest of each matrix stay.",
    ),
    "gmp": (
        "pruners.gmp:GMP",
        "GMP*, gradual magnitude pruning: a first step to 50 %, masks that stand for a while, a rate with rewinds.",
    ),
    "random": (
        "pruners.random_masks:Random",
        "Random pruning: weights are fine-tuned, random ones of each matrix stay: the floor.",
    ),
    "wanda": (
        "pruners.wanda:Wanda",
        "Wanda, in one shot: the largest |W| times input norm of each output's weights stay, and nothing is trained.",
    ),
    "magnitude-one-shot": (
        "pruners.one_shot:MagnitudeOneShot",
        "Magnitude pruning in one shot: the largest weights of each matrix stay, and nothing is trained.",
    ),
    "snip-momentum": (
        "pruners.snip_momentum:SnipMomentum",
        "SNIP with momentum: weights are fine-tuned, the highest running sums of |W * gradient| stay.",
    ),
    "platon": (
        "pruners.platon:Platon",
        "PLATON: weights are fine-tuned, those of highest importance times uncertainty stay.",
    ),
    "obert": (
        "pruners.obert:Obert",
        "oBERT: weights are fine-tuned, the highest second-order saliency stays, and makes up for what is removed.",
    ),
    "dense": (
        "pruners.dense:Dense",
        "Fine-tuning without pruning: the baseline.",
    ),
}


def _check(pruner: object, owner: Entry) -> None:
    """Refuse a class that isn't a method, or says what would be ignored in silence."""
    from dataclasses import fields

    from pruners.base import Pruner, PrunerSettings

    def broken(reason: str, remedy: str = "") -> PrunerError:
        return PrunerError(f"method '{owner.name}' of package {owner.package}: {owner.target} {reason}", remedy)

    if not (isinstance(pruner, type) and issubclass(pruner, Pruner)):
        raise broken("is not a subclass of pruners.Pruner")
    for attribute in ("name", "title"):
        if not isinstance(getattr(pruner, attribute, None), str):
            raise broken(f"has no {attribute}")
    if pruner.name != owner.name:
        raise PrunerError(
            f"method '{owner.name}' of package {owner.package}: the class calls itself '{pruner.name}'",
            "entry point and class must agree",
        )
    if not (isinstance(pruner.Settings, type) and issubclass(pruner.Settings, PrunerSettings)):
        raise broken("has Settings that aren't a subclass of pruners.PrunerSettings")
    if ignored := _ignored(pruner):
        raise broken(*ignored)
    known = {*(field.name for field in fields(pruner.Settings)), *dir(pruner.Settings)}
    if pruner.trains_scores and "scores_lr" not in known:
        raise broken(
            "trains scores, but its Settings have no scores_lr, so they would never change",
            "derive Settings from pruners.ScoredSettings, or add "
            'scores_lr: float = setting(2e-2, "peak learning rate of the scores", 0)',
        )
    if pruner.trains_scores and pruner.start is Pruner.start:
        raise broken(
            "trains scores, but has no start() that returns the first", "add one, or derive from ScoredPruner"
        )


def _ignored(pruner: type[Pruner]) -> tuple[str, str] | None:
    """What a plugin says that would be ignored in silence, and a remedy; None where all is well."""
    from dataclasses import fields
    from inspect import get_annotations

    from pruners.base import Pruner
    from pruners.scored import ScoredPruner, ScoredSettings

    settings = {field.name for field in fields(pruner.Settings)}
    for kind in _own(pruner.Settings):
        annotated = get_annotations(kind)
        if annotated and "__dataclass_fields__" not in vars(kind):
            return "has Settings that do nothing", f"put @dataclass above {kind.__name__}"
        if untyped := sorted(settings & vars(kind).keys() - annotated.keys()):
            name = untyped[0]
            return f"sets {name} in its Settings without a type, which does nothing", f"write {name}: float = …"
    known = {*dir(Pruner), *dir(ScoredPruner), *get_annotations(Pruner), *get_annotations(ScoredPruner)}
    for kinds, names in (
        (_own(pruner), {name for name in known if not name.startswith("_")}),
        (_own(pruner.Settings), {field.name for field in fields(ScoredSettings)}),
    ):
        for kind in kinds:
            if found := _misspelt(kind, names):
                return f"has {found[0]}, which means nothing to smp", f"did you mean {found[1]}?"
    asked = pruner.trains_scores or pruner.needs_statistics is not Pruner.needs_statistics
    if not asked and any("start" in vars(kind) for kind in _own(pruner)):
        return "has a start(), which is never asked", "add trains_scores = True"
    return None


def _own(kind: type) -> list[type]:
    """The class and its bases, without ours and Python's."""
    return [base for base in kind.__mro__ if base.__module__.partition(".")[0] not in ("pruners", "builtins")]


def _misspelt(kind: type, names: set[str]) -> tuple[str, str] | None:
    """A name of the class that is almost one of `names`, and that one. What its module reads itself is meant so."""
    import ast
    import inspect
    import sys
    from difflib import get_close_matches

    own = {name for name in {*vars(kind), *inspect.get_annotations(kind)} if not name.startswith("_")} - names
    close = {name: match for name in sorted(own) for match in get_close_matches(name, names, 1, 0.8)}
    if not close:
        return None
    try:
        source = ast.parse(inspect.getsource(sys.modules[kind.__module__]))
    except (OSError, TypeError, KeyError, SyntaxError):
        return None
    read = {node.attr for node in ast.walk(source) if isinstance(node, ast.Attribute)}
    return next(((name, match) for name, match in close.items() if name not in read), None)


METHODS: Registry[type[Pruner]] = Registry(
    "method", _BUILT_IN, "`smp methods` lists them", group="smp.pruners", check=_check
)
