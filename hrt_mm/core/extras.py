"""Optional libraries: the extras of a distribution that bring them, and the message when one is missing."""

from __future__ import annotations

import re
from importlib import metadata
from importlib.util import find_spec
from types import TracebackType

from .errors import ConfigError

DISTRIBUTION = "hrt-mm"
MODULES = {
    "espeakng-loader": "espeakng_loader",
    "faiss-cpu": "faiss",
    "flash-attn": "flash_attn",
    "huggingface-hub": "huggingface_hub",
    "megabyte-pytorch": "MEGABYTE_pytorch",
    "open-clip-torch": "open_clip",
    "opencv-python-headless": "cv2",
    "pillow": "PIL",
    "pyyaml": "yaml",
    "qdrant-client": "qdrant_client",
    "scikit-learn": "sklearn",
}
"""The module to import, for distributions whose name is another."""
_REQUIREMENT = re.compile(r"([\w.-]+)\s*(?:\[([^\]]*)\])?[^;]*(?:;(.*))?", re.DOTALL)
_EXTRA = re.compile(r"""extra\s*==\s*["']([\w.-]+)["']""")


class MissingLibrary(ConfigError):
    """A library that is not installed. The message names the extra that brings it."""


class needs_extra:
    """Context for the import of an optional library, whose failure becomes a :class:`MissingLibrary`.

    ::

        with needs_extra("audio"):
            import soundfile

    Args:
        extra: the extra of ``hrt-mm`` that brings the library.
        use: what it is needed for, for the message.
    """

    def __init__(self, extra: str, use: str = "") -> None:
        self.extra, self.use = extra, use

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # Libraries whose binaries do not match raise OSError.
        if not isinstance(error, ImportError | OSError):
            return
        fix = install_command(self.extra)
        if isinstance(error, ModuleNotFoundError) and error.name:
            module = error.name.partition(".")[0]
            library = next((name for name, value in MODULES.items() if value == module), module)
            message = (
                f"{self.use} needs {library}, which is not installed" if self.use else f"{library} is not installed"
            )
            raise MissingLibrary(f"{message}: {fix}") from error
        raise MissingLibrary(f"{self.use or 'a library'} cannot be loaded ({error}): {fix}") from error


def install_command(extra: str, distribution: str = DISTRIBUTION) -> str:
    """The command that installs an extra."""
    return f"pip install '{distribution}[{extra}]'"


def extras(distribution: str = DISTRIBUTION) -> tuple[str, ...]:
    """The extras of an installed distribution."""
    return tuple(metadata.metadata(distribution).get_all("Provides-Extra") or ())


def libraries(extra: str, distribution: str = DISTRIBUTION) -> tuple[str, ...]:
    """The distributions that an extra brings on every machine, from the metadata of an installed distribution."""
    names: dict[str, None] = {}
    for line in metadata.requires(distribution) or ():
        match = _REQUIREMENT.match(line)
        if match is None or extra not in _EXTRA.findall(match[3] or ""):
            continue
        name = normal_name(match[1])
        if name == normal_name(distribution):
            # An extra may be made of others, such as all.
            for inner in (match[2] or "").split(","):
                names.update(dict.fromkeys(libraries(inner.strip(), distribution)))
        elif "platform" not in match[3]:
            names[name] = None
    return tuple(names)


def missing_libraries(extra: str, distribution: str = DISTRIBUTION) -> tuple[str, ...]:
    """Those of the distributions of an extra that cannot be imported."""
    return tuple(name for name in libraries(extra, distribution) if not is_installed(module_of(name)))


def is_installed(module: str) -> bool:
    """Whether a top-level module can be found."""
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def module_of(distribution: str) -> str:
    """The top-level module of a distribution."""
    return MODULES.get(normal_name(distribution), distribution.replace("-", "_"))


def normal_name(distribution: str) -> str:
    """The name of a distribution in the form in which equal ones are equal."""
    return re.sub(r"[-_.]+", "-", distribution).lower()
