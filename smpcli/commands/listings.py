"""smp methods, smp tasks and smp recipes: what there is, and from which package."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from smpcli import console
from smpcli.commands import completion, options


def methods(
    name: Annotated[
        str | None, typer.Argument(help="Show this method in full.", autocompletion=completion.methods)
    ] = None,
    json: options.Json = False,
) -> None:
    """List the pruning methods, or show one.

    One is shown with all its settings.
    """
    from smpcli.catalogue import describe_method, list_methods

    if name is None:
        found = list_methods()
        if json:
            console.data_json(found)
            return
        rows = [(entry["name"], entry["package"], entry["summary"]) for entry in found]
        console.show(console.table(None, ["method", "from", "what it does"], rows))
        return
    about = describe_method(name)
    if json:
        console.data_json(about)
        return
    console.data(f"{about['title']}: {about['description']}\n")
    console.data(f"paper: {about['paper'] or 'none'}\nfrom: {about['package']}")
    console.show(_settings_table(f"Settings of {name}", about["settings"]))
    console.show(_settings_table("Settings of every run", about["common_settings"]))


def tasks(json: options.Json = False) -> None:
    """List the built-in tasks."""
    from smpcli.tasks.task import list_tasks

    found = list_tasks()
    if json:
        console.data_json([task.model_dump(mode="json") for task in found])
        return
    rows = [
        (
            task.name,
            task.kind,
            ", ".join(task.metrics),
            f"{task.train_rows or '?'}/{task.dev_rows or '?'}",
            task.title,
        )
        for task in found
    ]
    console.show(console.table(None, ["task", "kind", "metrics", "train/dev", "what is asked"], rows))


def recipes(json: options.Json = False) -> None:
    """List the recipes."""
    from smpcli.catalogue import list_recipes

    found = list_recipes()
    if json:
        console.data_json(found)
        return
    console.show(
        console.table(None, ["recipe", "what it does"], [(entry["name"], entry["description"]) for entry in found])
    )


def _settings_table(title: str, settings: list[dict[str, Any]]) -> Any:
    rows = [(entry["name"], entry["type"], str(entry["default"]), entry["help"]) for entry in settings]
    return console.table(title, ["setting", "type", "default", "meaning"], rows)
