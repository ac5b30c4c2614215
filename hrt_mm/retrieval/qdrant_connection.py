"""Connections to the vector database Qdrant, whose failures are errors with the remedy."""

from __future__ import annotations

import os
import warnings
from functools import wraps
from pathlib import Path
from typing import Any

from ..core.errors import UserError
from ..core.extras import needs_extra
from .rows import IndexUnavailable

KEY = "QDRANT_API_KEY"
"""Environment variable with the key of a server."""
SECONDS = 60
"""Time after which a request has failed."""


def connect(where: str | Path) -> Any:
    """Connects to a database.

    Args:
        where: ``http://`` or ``https://`` and a server's address, whose key is in the environment variable
            ``QDRANT_API_KEY``; ``:memory:``; or a folder, which one process at a time can open. Search is exhaustive
            there, for up to some ten thousand vectors.

    Raises:
        UserError: qdrant-client is not installed, or another process has opened the folder.
    """
    client = load_qdrant().QdrantClient
    text = str(where)
    if text.startswith(("http://", "https://")):
        with warnings.catch_warnings():
            # Of a key that travels without encryption: on a trusted network that is the user's choice.
            warnings.simplefilter("ignore")
            opened = client(url=text, api_key=os.environ.get(KEY) or None, timeout=SECONDS, check_compatibility=False)
        return Reachable(opened, text)
    try:
        return client(location=text) if text == ":memory:" else client(path=text)
    except RuntimeError as error:
        raise UserError(f"{text} is open in another process; wait for it, or use a Qdrant server") from error


class Reachable:
    """A client of a server, whose failures are errors with the remedy.

    Args:
        client: a ``qdrant_client.QdrantClient``.
        address: of the server.
    """

    def __init__(self, client: Any, address: str) -> None:
        self._wrapped, self._address = client, address

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._wrapped, name)
        if name.startswith("_") or not callable(value):
            return value

        @wraps(value)
        def call(*args: Any, **options: Any) -> Any:
            from qdrant_client.common.client_exceptions import QdrantException
            from qdrant_client.http.exceptions import ApiException, UnexpectedResponse

            try:
                return value(*args, **options)
            except UnexpectedResponse as error:
                if error.status_code in (401, 403):
                    raise UserError(f"{self._address} refuses the key; set {KEY} to one that it accepts") from None
                raise IndexUnavailable(
                    f"{self._address} answers {name} with status {error.status_code} {error.reason_phrase}; its log "
                    "has the reason"
                ) from error
            except (ApiException, QdrantException, OSError) as error:
                reason = getattr(error, "source", None) or error
                raise IndexUnavailable(
                    f"{self._address} cannot be reached or went away ({reason}); check the address and that the server "
                    "runs, and repeat the command, which is safe"
                ) from error

        return call


def load_qdrant() -> Any:
    """Imports qdrant_client.

    Raises:
        UserError: it is not installed.
    """
    with needs_extra("qdrant", "an index in Qdrant"):
        import qdrant_client

    return qdrant_client


def is_remote(client: Any) -> bool:
    """Whether the client is of a server. A local one has no payload indexes, and warns if they are requested."""
    return type(client._client).__name__ != "QdrantLocal"
