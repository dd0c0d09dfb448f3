"""Whether the Hugging Face hub answers at all, asked once and briefly.

The hub's client repeats a failed connection five times with growing pauses, half a minute in all, and has no setting
for that. A hub that can't be reached is therefore found out here, within seconds, and the client told to be offline:
what is in its cache is used at once, and what isn't gets our message.
"""

from __future__ import annotations

import os
import socket
import sys
import urllib.request
from functools import cache
from urllib.parse import urlsplit

SECONDS = 4.0


def prefer_cache_without_hub() -> None:
    """Switch the hub's client to its offline mode where nothing answers at the hub's address."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return
    address = urlsplit(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    if urllib.request.getproxies().get(address.scheme):
        return  # the proxy's business
    if not _answers(address.hostname or "", address.port or (80 if address.scheme == "http" else 443)):
        os.environ["HF_HUB_OFFLINE"] = "1"
        # Both read the variable when they are imported.
        if constants := sys.modules.get("huggingface_hub.constants"):
            constants.HF_HUB_OFFLINE = True  # type: ignore[attr-defined]
        if config := sys.modules.get("datasets.config"):
            config.HF_HUB_OFFLINE = True  # type: ignore[attr-defined]


@cache
def _answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), SECONDS).close()
    except (OSError, UnicodeError):
        return False
    return True
