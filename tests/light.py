"""Processes that see a light installation: what an extra does not bring cannot be imported."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from importlib import metadata
from pathlib import Path
from types import TracebackType

from hrt_mm.core.extras import libraries, normal_name

DISTRIBUTION = "hrt-mm"

_SERVER = """
import contextlib, json, os, sys, tempfile, traceback

blocked = set(json.loads(sys.argv[1]))

class Light:
    # Finds what another finder finds, but for blocked modules.
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in blocked else self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = map(Light, sys.meta_path)
import torch._dynamo, hrt_mm.cli.main, hrt_mm.config, hrt_mm.train.loop

def run(request, out):
    os.dup2(out.fileno(), 1)
    os.dup2(out.fileno(), 2)
    os.chdir(request["cwd"])
    os.environ.update(request["environment"])
    blocked.intersection_update(request["blocked"])
    try:
        exec(request["code"], {"arguments": request["arguments"]})
    except BaseException:
        traceback.print_exc()
        code = 1
    else:
        code = 0
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)

for line in sys.stdin:
    with tempfile.TemporaryFile("w+b") as out:
        process = os.fork()
        if not process:
            run(json.loads(line), out)
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        out.seek(0)
        print(json.dumps([code, out.read().decode()]), flush=True)
"""


@cache
def installed(*extras: str) -> frozenset[str]:
    """The distributions that an installation with some extras brings."""
    names: set[str] = set()
    waiting = [DISTRIBUTION, *(name for extra in extras for name in libraries(extra))]
    while waiting:
        name = normal_name(waiting.pop())
        if name in names:
            continue
        try:
            lines = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        names.add(name)
        waiting += [re.split(r"[ ;<>=!~\[(]", line, maxsplit=1)[0] for line in lines if "extra ==" not in line]
    return frozenset(names)


@cache
def blocked(*extras: str) -> frozenset[str]:
    """The top-level modules that an installation with some extras does not have, of those that are here."""
    allowed = installed(*extras)
    return frozenset(
        module
        for module, owners in metadata.packages_distributions().items()
        if not allowed & {normal_name(owner) for owner in owners}
    )


class Light:
    """Runs programs in forks of one process that has imported the core where nothing else can be imported."""

    def __init__(self) -> None:
        command = [sys.executable, "-c", _SERVER, json.dumps(sorted(blocked()))]
        self._server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> Light:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.communicate()

    def run(self, code: str, arguments: Sequence[object], extras: Sequence[str], cwd: Path) -> str:
        """Runs a program.

        Args:
            code: the program. It reads ``arguments``.
            arguments: for it, as JSON has them.
            extras: of ``hrt-mm``; their libraries can be imported beside the core's.
            cwd: the folder it runs in; caches are in there too.

        Returns:
            What it printed.
        """
        request = {
            "code": code,
            "arguments": list(arguments),
            "blocked": sorted(blocked(*extras)),
            "cwd": str(cwd),
            "environment": {"XDG_CACHE_HOME": str(cwd / "cache")},
        }
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        exit_code, out = json.loads(self._server.stdout.readline())
        assert exit_code == 0, out
        return str(out)
