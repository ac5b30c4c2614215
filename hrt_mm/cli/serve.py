"""``hrt-mm serve``: answers searches of an index over HTTP."""

from __future__ import annotations

import argparse
import signal
import socket
from ipaddress import ip_address
from pathlib import Path

from .arguments import Commands, command
from .index import STORE, target

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")


def add(commands: Commands) -> None:
    """Adds the command."""
    parser = command(commands, "serve", "answer searches of an index over HTTP, with the model loaded once", run)
    parser.add_argument("index", metavar="INDEX", nargs="?", help=STORE)
    parser.add_argument("--store", metavar="INDEX", help="the index, in place of the first argument")
    parser.add_argument(
        "--run", dest="folder", type=Path, help="run folder of the model, or hub:owner/name (that of the index)"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1, this machine alone)")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on; 0 for a free one (8000)")
    parser.add_argument("--max-upload-mb", type=float, default=16, metavar="MB", help="maximum size of a file (16)")
    parser.add_argument(
        "--max-seconds", type=float, default=60, metavar="S", help="maximum duration of a sound or a video (60)"
    )
    parser.add_argument("--timeout", type=float, default=30, metavar="S", help="maximum seconds per request (30)")
    parser.add_argument("--threads", type=int, default=2, metavar="N", help="requests to compute at once (2)")


def run(args: argparse.Namespace) -> int:
    """Serves until a signal ends it."""
    from ..core.errors import UserError
    from ..core.extras import needs_extra
    from ..retrieval.stores import open_index

    with needs_extra("serve", "hrt-mm serve"):
        import fastapi  # noqa: F401
        import uvicorn

    if not 0 <= args.port < 1 << 16:
        raise UserError(f"--port {args.port}: a port is 0 to 65535; 0 takes a free one")
    where, _ = target(args)
    # Before the model is loaded, which takes longer.
    with _listening(args.host, args.port) as listener, open_index(where) as index:
        from ..retrieval.search import Searcher
        from ..retrieval.server import ServerLimits, create_app

        limits = ServerLimits(int(args.max_upload_mb * (1 << 20)), args.max_seconds, args.timeout, args.threads)
        searcher = Searcher.of(index, args.folder)
        hosts = LOOPBACK if _is_loopback(args.host) else ("*",)
        config = uvicorn.Config(
            create_app(searcher, limits, hosts=hosts),
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=5,
            limit_concurrency=256,
        )
        host, port = listener.getsockname()[:2]
        address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        print(f"{where} is served at {address} ({address}/docs describes it); Ctrl-C ends it", flush=True)
        # The server passes the signal that ends it on to the handlers of the command. A shell makes commands in the
        # background ignore Ctrl-C, which the server does not: then there is no handler to pass it on to.
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        uvicorn.Server(config).run(sockets=[listener])
    return 0


def _listening(host: str, port: int) -> socket.socket:
    from ..core.errors import UserError

    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(128)
        except BaseException:
            listener.close()
            raise
    except OSError as error:
        raise UserError(
            f"--host {host} --port {port} cannot be listened on: {error.strerror}; choose another, or 0 for a free one"
        ) from error
    return listener


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
