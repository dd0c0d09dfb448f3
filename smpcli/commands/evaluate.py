"""smp eval."""

from __future__ import annotations

from smpcli import api, console
from smpcli.commands import options
from smpcli.errors import EXIT_INTERNAL


def evaluate(
    run: options.RunPath,
    data_dir: options.DataDir = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> int:
    """Recompute a run's metrics from its folder, and check them against its result.json."""
    found = api.evaluate(run, data_dir=data_dir)
    if json:
        console.data_json({"metrics": found.metrics, "recorded": found.recorded, "agrees": found.agrees})
    else:
        for name, value in found.metrics.items():
            console.data(f"{name} {value!r}")
        if found.left_out and not quiet:
            console.talk(f"not recomputed, as the folder lacks their dev set: {', '.join(found.left_out)}")
        if found.agrees and not quiet:
            console.talk("agrees with result.json to the last digit")
    if not found.agrees:
        console.error(f"result.json of {run} says {found.recorded}, this machine finds {found.metrics}")
        return EXIT_INTERNAL
    return 0
