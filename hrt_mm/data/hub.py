"""Folders and repositories of the Hugging Face Hub: downloading them, and refusing what is not of this library."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from ..core.errors import UserError
from ..core.extras import needs_extra
from .storage import parse_json

log = logging.getLogger(__name__)

PREFIX = "hub:"
"""Before the name of a repository, where a path may be given as well."""
LIBRARY = "hrt-mm"
CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
FORMAT = 1
FILES = "files"
"""Folder of the vocabularies that a run needs, and their key in ``config.json``."""
REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
_PICKLES = frozenset({".bin", ".ckpt", ".joblib", ".pickle", ".pkl", ".pt", ".pth"})
"""Suffixes of files that are read by running code in them."""
_SUFFIXES = ("json", "yaml", "safetensors", "md")
"""Files of a repository that are downloaded."""


def resolve(path_or_id: str | Path, *, revision: str | None = None, token: str | bool | None = None) -> Path:
    """The folder of a path, or of a repository that is downloaded (``hub:owner/name``).

    Args:
        path_or_id: a path, which is returned unchanged, or a repository.
        revision: branch, tag or commit of the repository.
        token: for private repositories; that of ``hf auth login`` by default.

    Raises:
        UserError: the repository does not exist or cannot be read, is of another library, or holds pickles.
    """
    if not is_repository(path_or_id):
        return Path(path_or_id)
    return download(str(path_or_id).removeprefix(PREFIX), revision, token)


def is_repository(path_or_id: str | Path) -> bool:
    """Whether it names a repository, ``hub:owner/name``, and not a path."""
    return str(path_or_id).startswith(PREFIX)


def output_path(run: str | Path, name: str, option: str) -> Path:
    """Where a command writes by default: into the run folder.

    Args:
        run: the run folder, or a repository.
        name: of the file or folder.
        option: that names another place, for the error.

    Raises:
        UserError: it is a repository, whose local copy is not to be changed.
    """
    if is_repository(run):
        raise UserError(f"{run} is a repository, which nothing is written to; name a place for {name} with {option}")
    return Path(run) / name


def saved_overrides(folder: Path) -> list[str]:
    """Overrides that point a run's configuration to the files that were saved with it."""
    path = folder / CONFIG
    if not path.is_file():
        return []
    files = read_config(folder).get(FILES) or {}
    overrides = []
    for key, name in files.items():
        inside = PurePosixPath(str(name))
        if inside.is_absolute() or ".." in inside.parts:
            raise UserError(f"{path} names a file outside of its folder: {name!r}")
        overrides.append(f"{key}={json.dumps(str(folder / inside))}")
    return overrides


def download(repo: str, revision: str | None = None, token: str | bool | None = None) -> Path:
    """The folder of a downloaded repository.

    Raises:
        UserError: it does not exist or cannot be read, is of another library, or holds pickles.
    """
    if not REPOSITORY.fullmatch(repo):
        raise UserError(f"{repo!r} is no name of a repository; give {PREFIX}owner/name")
    with needs_extra("hub", f"{PREFIX}{repo}"):
        from huggingface_hub import HfApi, snapshot_download
        from huggingface_hub.errors import HfHubHTTPError

    # Bases of the hub's error are those of its HTTP library, which differs by version.
    unreachable: tuple[type[BaseException], ...] = (*HfHubHTTPError.__bases__, OSError)
    patterns = [f"*.{suffix}" for suffix in _SUFFIXES]
    # Files of a repository may be many gigabytes, so names are checked before anything is downloaded.
    try:
        names = HfApi(token=token).list_repo_files(repo, revision=revision)
        _check_names(names, f"the repository {repo}")
        folder = snapshot_download(repo, revision=revision, token=token, allow_patterns=patterns)
    except unreachable as error:
        cause = str(error).splitlines()[0]
        refused = UserError(
            f"the repository {repo} cannot be read: {cause}; check its name and the network, and log in with "
            "`hf auth login` if it is private"
        )
        if isinstance(error, HfHubHTTPError):
            raise refused from error
        try:
            folder = snapshot_download(repo, revision=revision, allow_patterns=patterns, local_files_only=True)
        except OSError:
            raise refused from error
        log.warning("the hub cannot be reached (%s); %s is the copy that was downloaded before", cause, repo)
    read_config(Path(folder))
    return Path(folder)


def _check_names(names: Iterable[str], where: str) -> None:
    """Refuses what is not of this library.

    Raises:
        UserError: there are pickles, or no ``config.json``.
    """
    names = list(names)
    pickles = sorted(name for name in names if PurePosixPath(name).suffix.lower() in _PICKLES)
    if pickles:
        raise UserError(
            f"{where} holds {pickles[0]}, a pickle, which runs code when it is read; use one with safetensors alone"
        )
    if CONFIG not in names:
        raise UserError(f"{where} has no {CONFIG}; it was not saved by {LIBRARY}'s save_pretrained")


def read_config(folder: Path) -> dict[str, Any]:
    """The content of ``config.json``.

    Raises:
        UserError: the folder holds pickles, or a model of another library or a newer version.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder")
    _check_names((path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()), str(folder))
    path = folder / CONFIG
    config = parse_json(path.read_bytes(), str(path))
    library = config.get("library_name") if isinstance(config, dict) else None
    if library != LIBRARY:
        kinds = (config.get("architectures") or config.get("architecture")) if isinstance(config, dict) else None
        of = f"; it is a model {kinds}" if kinds else ""
        raise UserError(
            f"{path} is of another library: library_name is {library!r}, not {LIBRARY!r}{of}. Load it with the library "
            "that saved it"
        )
    if config.get("format") != FORMAT:
        raise UserError(f"{path} has format {config.get('format')!r}; this version reads {FORMAT}: update {LIBRARY}")
    return config


def warn_without_license(folder: Path) -> None:
    """Warns if the model card states no license."""
    path = folder / CARD
    text = path.read_text("utf-8", "replace") if path.is_file() else ""
    header = text.split("---", 2)[1] if text.startswith("---") and text.count("---") > 1 else ""
    try:
        fields = yaml.safe_load(header)
    except yaml.YAMLError:
        fields = None
    if not (isinstance(fields, dict) and fields.get("license")):
        log.warning("%s states no license; ask its author before you use or pass on the model", path)
