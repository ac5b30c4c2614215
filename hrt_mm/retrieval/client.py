"""Asks a running server for the results of a query, without a model or PyTorch; see :mod:`hrt_mm.retrieval.server`."""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, Request, build_opener
from uuid import uuid4

from ..core.errors import UserError
from .rows import Row
from .segment import Hit

SECONDS = 120
"""Time after which a request has failed."""
MAX_ANSWER = 64 << 20
"""Maximum bytes of an answer."""


@dataclass(frozen=True)
class Answer:
    """The results of a server.

    Args:
        plain: as :meth:`hrt_mm.retrieval.results.Results.plain` gives them; media are addresses.
    """

    plain: Mapping[str, Any]

    @property
    def hits(self) -> list[Hit]:
        """The hits, without media."""
        return [_hit(value) for value in self.plain["results"]]


def search(
    url: str,
    texts: Sequence[Mapping[str, Any]],
    files: Sequence[tuple[str, Path]],
    options: Mapping[str, Any],
) -> Answer:
    """Asks a server.

    Args:
        url: of the server: ``http://localhost:8000``.
        texts: terms of the query: ``text``, ``tower`` and ``weight`` of each.
        files: tower and path of at most one file.
        options: of the search; those at their defaults may be left out.

    Raises:
        UserError: the address is no server's, it cannot be reached, it refuses the query, or a file cannot be read.
    """
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
        raise UserError(f"--server {url} is no address; write http://HOST:PORT, as `hrt-mm serve` prints it")
    if len(files) > 1:
        raise UserError("a server takes one file for a query; search without --server to combine several")
    request = {**options, "terms": list(texts)}
    if not files:
        body, kind = json.dumps(request).encode(), "application/json"
        return Answer(_post(f"{url.rstrip('/')}/search", body, kind))
    ((tower, path),) = files
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    body, kind = _form(path.name, content, {"tower": tower, "options": json.dumps(request)})
    return Answer(_post(f"{url.rstrip('/')}/search/file", body, kind))


def _form(name: str, content: bytes, fields: Mapping[str, str]) -> tuple[bytes, str]:
    """A multipart form, and its content type."""
    edge = uuid4().hex
    safe = name.encode("ascii", "replace").decode().replace('"', "'").replace("\\", "_")
    parts = [
        f'--{edge}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{text}\r\n' for key, text in fields.items()
    ]
    head = f'--{edge}\r\nContent-Disposition: form-data; name="file"; filename="{safe}"\r\n\r\n'
    body = "".join([*parts, head]).encode() + content + f"\r\n--{edge}--\r\n".encode()
    return body, f"multipart/form-data; boundary={edge}"


def _post(address: str, body: bytes, kind: str) -> dict[str, Any]:
    # A proxy would not reach a server on this machine.
    opener = build_opener(*([ProxyHandler({})] if _is_local(address) else []))
    try:
        with opener.open(Request(address, body, {"Content-Type": kind}), timeout=SECONDS) as response:
            answer = json.loads(response.read(MAX_ANSWER))
        if not isinstance(answer, dict) or not isinstance(answer.get("results"), list):
            raise UserError(f"{address} does not answer as `hrt-mm serve` does; check the address")
        return answer
    except HTTPError as error:
        try:
            message = json.loads(error.read(MAX_ANSWER))["error"]["message"]
        except (ValueError, TypeError, KeyError):
            message = f"status {error.code} {error.reason}"
        raise UserError(f"{address}: {message}") from None
    except (URLError, OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise UserError(
            f"{address} cannot be reached: {reason}; start the server with `hrt-mm serve`, or search without --server"
        ) from error
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{address} does not answer with JSON; check the address") from error


def _is_local(address: str) -> bool:
    host = urlsplit(address).hostname or ""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _hit(value: Mapping[str, Any]) -> Hit:
    try:
        row = Row.of(
            json.dumps({"level": "", "parent": "", "file": "", "span": None, **value, "stamp": ""}).encode(),
            "an answer",
        )
        return Hit(float(value["score"]), row, None, tuple(_hit(inner) for inner in value.get("inside", ())))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"the server's answer cannot be read: {error}") from error
