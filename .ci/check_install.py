#!/usr/bin/env python3
"""Installs the tree into a real, empty environment, without extras and with each one alone, and trains there.

For each: how much it takes beside torch and what torch brings, how long ``import hrt_mm`` takes beside
``import torch``, and whether the smallest configuration trains. What an extra brought is taken out before the next one,
so that torch is installed once. Beside the core, the distribution ``modalities`` of PyPI is installed before and after
it, which must do no harm.

    .ci/check_install.py [core] [vision] ...    all when none is named
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.smallest import HIERARCHY, SMALLEST, check, commands  # noqa: E402

STRANGER = "modalities"
"""A distribution on PyPI whose name is that of a folder here."""

MEASURE = r"""
import json, re
from importlib import metadata

def parsed(line):
    name, inner = re.match(r"([\w.-]+)\s*(?:\[([^]]*)\])?", line).groups()
    return re.sub(r"[-_.]+", "-", name).lower(), frozenset(filter(None, (inner or "").replace(" ", "").split(",")))

def closure(name):
    done, waiting = set(), [(name, frozenset())]
    while waiting:
        name, extras = one = waiting.pop()
        if one in done:
            continue
        try:
            lines = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        done.add(one)
        for line in lines:
            wanted = re.search(r"extra == .([\w.-]+).", line)
            if wanted is None or wanted[1] in extras:
                waiting.append(parsed(line))
    return {name for name, _ in done}

def size(distribution):
    return sum(file.size or 0 for file in distribution.files or ())

torch, sizes = closure("torch"), {}
for distribution in metadata.distributions():
    name = re.sub(r"[-_.]+", "-", distribution.name).lower()
    if name not in torch and name not in ("pip", "wheel"):
        sizes[name] = size(distribution)
print(json.dumps(sizes))
"""
IMPORT = """
import time
start = time.perf_counter()
import torch
middle = time.perf_counter()
import hrt_mm
print(middle - start, time.perf_counter() - middle)
"""


class Environment:
    """An empty environment.

    Args:
        folder: where it is made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._run([sys.executable, "-m", "venv", str(folder / "venv")])
        self.bin = folder / "venv" / ("Scripts" if os.name == "nt" else "bin")

    def install(self, *what: str) -> None:
        """Installs with pip."""
        self._run([str(self.bin / "python"), "-m", "pip", "install", "--quiet", "--no-compile", *what])

    def installed(self) -> set[str]:
        """What is installed, as ``NAME==VERSION``, but this distribution."""
        lines = self._run([str(self.bin / "python"), "-m", "pip", "list", "--format=freeze"]).splitlines()
        return {line for line in lines if not line.startswith("hrt-mm")}

    def uninstall(self, *names: str) -> None:
        """Takes distributions out."""
        self._run([str(self.bin / "python"), "-m", "pip", "uninstall", "--yes", *names])

    def python(self, code: str) -> str:
        """What a program prints."""
        return self._run([str(self.bin / "python"), "-c", code])

    def train(self, extra: str) -> None:
        """Trains the smallest configuration of an extra."""
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            for line in commands(extra, folder):
                self._run([str(self.bin / "hrt-mm"), *line], folder)
            check(extra, folder)

    def _run(self, command: list[str], cwd: Path | None = None) -> str:
        environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
        environment["XDG_CACHE_HOME"] = str(self.folder / "cache")
        # pip keeps its own cache, so that torch is fetched once.
        environment.setdefault("PIP_CACHE_DIR", str(Path.home() / ".cache" / "pip"))
        done = subprocess.run(command, cwd=cwd or self.folder, env=environment, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
        return done.stdout


def examine(extra: str, environment: Environment) -> None:
    """Installs an extra beside the core, and prints a line on it."""
    start = time.monotonic()
    environment.install(str(ROOT) if extra == "core" else f"{ROOT}[{extra}]")
    took = time.monotonic() - start
    sizes: dict[str, int] = json.loads(environment.python(MEASURE))
    environment.python(IMPORT)
    torch_s, own_s = min(tuple(map(float, environment.python(IMPORT).split())) for _ in range(3))
    environment.python(HIERARCHY)
    environment.train(extra)
    largest = sorted(sizes, key=lambda name: -sizes[name])[:4]
    listed = ", ".join(f"{name} {sizes[name] / 1e6:.0f}" for name in largest)
    print(
        f"{extra:<12} {sum(sizes.values()) / 1e6:4.0f} MB beside torch in {len(sizes)} distributions ({listed}); "
        f"import torch {torch_s:.2f} s, hrt_mm {own_s:.2f} s more; installed in {took:.0f} s; trains",
        flush=True,
    )


def beside_stranger(environment: Environment) -> None:
    """Installs the distribution ``modalities`` after and before this one. Its dependencies have no part in it."""
    python = str(environment.bin / "python")
    wheels = environment.folder / "wheels"
    fetch = [python, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(wheels), STRANGER]
    if subprocess.run(fetch, capture_output=True).returncode:
        print(f"{'beside':<12} skipped: pip does not get {STRANGER}")
        return
    (wheel,) = wheels.iterdir()
    for order in ((str(wheel), str(ROOT)), (str(ROOT), str(wheel))):
        environment.uninstall("hrt-mm", STRANGER)
        for what in order:
            environment.install("--no-deps", what)
        environment.python(OWNERS)
        environment.train("core")
    environment.uninstall(STRANGER)
    print(
        f"{'beside':<12} {wheel.name} and hrt-mm share no file, and hrt-mm works, whichever is installed first",
        flush=True,
    )


OWNERS = f"""
from importlib import metadata, util

files = {{name: {{str(file) for file in metadata.files(name)}} for name in ("hrt-mm", "{STRANGER}")}}
assert files["{STRANGER}"] and not files["hrt-mm"] & files["{STRANGER}"]
for name, own in files.items():
    lost = [file for file in metadata.files(name) if not file.locate().exists()]
    assert not lost, (name, lost)
assert util.find_spec("hrt_modalities.vision") and util.find_spec("{STRANGER}")
"""


def main() -> None:
    """Examines the environments that are named."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("extras", nargs="*", metavar="EXTRA", help=f"of {', '.join(SMALLEST)}; all when none is named")
    chosen: list[str] = parser.parse_args().extras or list(SMALLEST)
    if unknown := set(chosen) - set(SMALLEST):
        parser.error(f"no {', '.join(sorted(unknown))}; choose from {', '.join(SMALLEST)}")
    with tempfile.TemporaryDirectory(prefix="hrt-mm-install-") as name:
        environment = Environment(Path(name))
        examine("core", environment)
        core = environment.installed()
        if "core" in chosen:
            beside_stranger(environment)
        for extra in chosen:
            if extra != "core":
                examine(extra, environment)
                environment.uninstall(*(line.partition("==")[0] for line in environment.installed() - core))
                # Where the extra bounds torch, another one may have taken its place.
                if environment.installed() != core:
                    environment.install(*core)


if __name__ == "__main__":
    main()
