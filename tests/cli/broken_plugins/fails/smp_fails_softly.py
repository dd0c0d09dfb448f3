"""Imports well, and holds no pruner of the name that its entry points say."""

from pruners import Pruner

NO_PRUNER = 3


class Misnamed(Pruner):
    """Calls itself otherwise than its entry point."""

    name, title = "well-named", "Misnamed"
