"""What there is: methods, their settings, recipes. Listing imports no plugin and no torch."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any, get_type_hints

from pruners.methods import METHODS
from smpcli.paths import RECIPES


def list_methods() -> list[dict[str, str]]:
    """One entry a published method; two owners of one name are both listed, and the name can't be used."""
    found = []
    for name, owners in METHODS.entries().items():
        for owner in owners:
            summary = owner.summary
            if len(owners) > 1:
                others = ", ".join(other.package for other in owners if other is not owner)
                summary = f"can't be used: {others} publishes the same name"
            found.append({"name": name, "package": owner.package, "summary": summary})
    return found


def describe_method(name: str) -> dict[str, Any]:
    """A method in full: what it does, paper, every setting with type, default and help text."""
    from smpcli.settings import RunSettings

    pruner = METHODS.load(name)
    hints = get_type_hints(pruner.Settings)
    return {
        "name": name,
        "title": pruner.title,
        "description": inspect.getdoc(pruner) or "",
        "paper": pruner.paper,
        "package": METHODS.require(name)[0].package,
        "settings": [
            {
                "name": field.name,
                "type": _type_name(hints[field.name]),
                "default": field.default,
                "help": field.metadata.get("help", ""),
            }
            for field in dataclasses.fields(pruner.Settings)
        ],
        "common_settings": [
            {
                "name": name,
                "type": _type_name(field.annotation),
                "default": None if field.is_required() else field.default,
                "help": field.description,
            }
            for name, field in RunSettings.model_fields.items()
        ],
    }


def _type_name(annotation: Any) -> str:
    """`float`, `int`, or the words of a Literal: "zero | magnitude"."""
    if isinstance(annotation, str):
        return annotation
    arguments = getattr(annotation, "__args__", None)
    if arguments is None:
        return str(getattr(annotation, "__name__", annotation)).replace("NoneType", "none")
    return " | ".join(map(_type_name, arguments))


def list_recipes() -> list[dict[str, str]]:
    """The recipes by name, each with its line of description."""
    from smpcli.settings import recipe_names
    from smpcli.yaml_text import read_yaml

    return [
        {"name": name, "description": str(read_yaml(RECIPES / f"{name}.yaml").get("description", ""))}
        for name in recipe_names()
    ]
