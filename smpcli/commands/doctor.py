"""smp doctor."""

from __future__ import annotations

from typing import Any

from smpcli import api, console
from smpcli.commands import options


def doctor(json: options.Json = False) -> None:
    """Show versions, devices, caches and network.

    For bug reports. Of the network, whether the hub and the package index answer.
    """
    found = api.doctor()
    if json:
        console.data_json(found)
        return
    console.show(console.table(None, ["what", "is"], _rows(found)))


def _rows(found: dict[str, Any]) -> list[tuple[str, str]]:
    devices, caches = found["devices"], found["caches"]
    rows = [(name, version or "not installed") for name, version in found["versions"].items()]
    rows += [
        ("platform", found["platform"]),
        ("a run takes", devices["run"]),
        ("processors", str(devices["processors"])),
        ("CUDA devices", ", ".join(devices["cuda"]) or "none"),
        ("MPS", "yes" if devices["mps"] else "no"),
        (
            "methods of others",
            ", ".join(f"{name} ({package})" for name, package in found["methods"].items()) or "none",
        ),
    ]
    rows += [
        (f"{name} cache", f"{cache['path']}, {cache['files']:,} files, {cache['bytes'] / 2**20:,.1f} MiB")
        for name, cache in caches.items()
    ]
    rows.append(("SMP_DATA_DIR", found["data_dir"] or "not set"))
    rows += [(name, _answer(**answer)) for name, answer in found["network"].items()]
    return rows


def _answer(answers: bool | None, detail: str) -> str:
    if answers is None:
        return detail
    return f"answers ({detail})" if answers else f"doesn't answer ({detail})"
