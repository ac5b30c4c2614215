"""Loading a configuration from a file and overrides."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..core.component import Component
from ..data.dataset import DatasetConfig
from ..data.registry import broken_plugins, modalities
from ..tasks.base import TaskConfig
from ..tasks.joint import JointTaskConfig
from ..train.run_config import SHORT_FORM, RunConfig, TowerConfig
from .allowed import Allowed
from .deprecated import DeprecatedKeys
from .fitting import fit
from .interpolation import interpolate
from .layers import find_config, load_layers
from .messages import Problem, fail, one_of, show
from .nodes import Keys, Node, both_given
from .overrides import apply
from .schema import compose
from .sections import datasets, joint, section_component, tasks, tokenizers
from .validation import Validator


def load_config(source: str | Path, overrides: Sequence[str] = (), *, of_run: bool = False) -> RunConfig:
    """Reads, merges and validates a configuration.

    Args:
        source: a path, or the name of a packaged configuration such as ``vision/digits``.
        overrides: each ``a.b.c=value``, the value in YAML.
        of_run: a run wrote the file, with all keys that there were. Those of ``data`` that it lacks are younger than
            the run, and mean what was done before (:attr:`DatasetConfig.before`).

    Raises:
        ConfigError: lists every mistake with its line, its path, the value and what is allowed.
    """
    problems: list[Problem] = []
    deprecated = DeprecatedKeys(problems)
    layers = load_layers(find_config(str(source)), problems, deprecated)
    if of_run:
        _add_younger(layers)
    root = interpolate(apply(layers, overrides, problems, deprecated), problems)
    sections = _sections(root, problems)
    fail(problems)
    # Sections are validated one by one, so that all mistakes are reported at once and each with its line.
    return RunConfig(**sections)


def _add_younger(layers: Node) -> None:
    """Writes out what the keys of ``data`` mean that are younger than a run."""
    name, section = _type(layers, "data"), layers.child("data")
    if name is None or section is None or not isinstance(section.value, dict):
        return
    by_modality = [datasets(name) for name in modalities()]
    for component in (types[name] for types in (*by_modality, joint()) if name in types):
        if issubclass(component, DatasetConfig):
            for key, value in component.before.items():
                section.value.setdefault(key, Node(value, section.mark))


def _sections(root: Node, problems: list[Problem]) -> dict[str, Any]:
    """The validated sections by name, without those with mistakes."""
    installed = modalities()
    modality = _type(root, "modality")
    chosen = modality if modality in installed else None
    assert isinstance(root.value, dict)
    several = "towers" in root.value
    schema = compose(installed, chosen, joint(), several=several)
    allowed = Allowed(schema)
    fit(root, allowed, problems)
    for path in (("train",), ("train", "pretrain")):
        _check_alternatives(root, path, problems)
    validator = Validator(root, allowed, problems)
    for name in root.value:
        if several and name in SHORT_FORM:
            validator.add((name,), "stands beside towers, which have their own; give one or the other")
        elif name not in SHORT_FORM and name not in RunConfig.model_fields:
            validator.add((name,), validator.allowed.unknown_key((name,), validator.data))
    # Without a known modality it is open which datasets fit, and that mistake is reported where it is.
    data_types = joint() if several else datasets(chosen) if chosen is not None else None
    validated: dict[str, Any] = {}
    for name, field in RunConfig.model_fields.items():
        if name == "towers":
            validated = {name: _towers(root, validator)} if several else _tower((), root, validator)
        elif name not in root.value and field.is_required():
            validator.add((name,), f"the section is missing; expected {field.description}")
        elif name == "task":
            validated[name] = _typed_section((name,), root, tasks(), validator)
        elif name != "data":
            validated[name] = validator.section((name,), section_component(name))
        elif data_types is not None:
            validated[name] = _typed_section((name,), root, data_types, validator)
    _check_form(validated.get("task"), validator, several=several)
    return validated


def _check_alternatives(root: Node, path: Keys, problems: list[Problem]) -> None:
    """Reports mutually exclusive settings that a single layer sets at the same time."""
    node, depth = root.find(path)
    given = both_given(node) if depth == len(path) else None
    if given is not None and all(problem.path != path for problem in problems):
        apart = len({child.mark for _, child in given}) > 1
        names = " and ".join(f"{key} ({child.mark})" if apart else key for key, child in given)
        problems.append(Problem(node.mark, path, f"{names} are alternatives; keep one of them"))


def _towers(root: Node, validator: Validator) -> dict[str, TowerConfig] | None:
    """The validated towers by name; nothing where one has mistakes."""
    section = root.child("towers")
    assert section is not None
    if not isinstance(section.value, dict) or len(section.value) < 2:
        validator.add(("towers",), f"got {show(section.data())}; expected two towers or more by name")
        return None
    towers: dict[str, TowerConfig] = {}
    for name, node in section.value.items():
        path: Keys = ("towers", name)
        # Names become parts of module names, of metrics and of file names.
        if not re.fullmatch("[a-z][a-z0-9_]*", name):
            validator.add(path, "the name of a tower is small letters, digits and _, a letter first")
        if not isinstance(node.value, dict):
            validator.add(path, f"got {show(node.data())}; expected a map with modality and model")
            continue
        for key in node.value:
            if key not in TowerConfig.model_fields:
                validator.add((*path, key), validator.allowed.unknown_key((*path, key), validator.data))
        tower = _tower(path, root, validator)
        if None not in tower.values():
            towers[name] = TowerConfig(**tower)
    return towers if len(towers) == len(section.value) else None


def _tower(path: Keys, root: Node, validator: Validator) -> dict[str, Any]:
    """The validated modality and model at a path; ``None`` in place of one that has mistakes."""
    tower: dict[str, Any] = {}
    for name, field in TowerConfig.model_fields.items():
        section = (*path, name)
        if root.find(section)[1] < len(section):
            validator.add(section, f"the section is missing; expected {field.description}")
            tower[name] = None
        elif name == "modality":
            tower[name] = _typed_section(section, root, tokenizers(modalities()), validator)
        else:
            tower[name] = validator.section(section, section_component(name))
    return tower


def _check_form(task: Component | None, validator: Validator, *, several: bool) -> None:
    """A task over several modalities has towers, and one over one modality has none."""
    if not isinstance(task, TaskConfig) or isinstance(task, JointTaskConfig) == several:
        return
    forms = ("one model", "modality and model"), ("several towers", "towers")
    (_, given), (reads, wanted) = forms if not several else reversed(forms)
    fix = f"give {wanted} in place of {given}"
    validator.add(("task", "type"), f"task {task.type} is over {reads}; {fix}")


def _type(root: Node, *section: str | int) -> str | None:
    node = root.find((*section, "type"))[0]
    return node.value if isinstance(node.value, str) else None


def _typed_section(
    section: Keys, root: Node, options: Mapping[str, type[Component]], validator: Validator
) -> Component | None:
    """The validated component of a section whose ``type`` names one; None if it has mistakes."""
    node, _ = root.find(section)
    name = _type(root, *section)
    what = str(section[-1])
    if isinstance(node.value, dict) and name is not None and name in options:
        return validator.section(section, options[name])
    choices = ", ".join(options)
    if not isinstance(node.value, dict):
        hint = f"; write {{type: {name}}}" if name in options else ""
        validator.add(section, f"got {show(node.data())}; expected a map with a type (one of {choices}){hint}")
    elif "type" not in node.value:
        validator.add((*section, "type"), f"the key is missing; expected one of {choices}")
    else:
        word = node.value["type"].data()
        broken = broken_plugins().get(("dataset" if what == "data" else what, str(word)))
        foreign = _foreign(word, root, list(options)) if what == "data" else None
        foreign = str(broken) if broken is not None else foreign
        validator.add((*section, "type"), foreign or one_of(word, list(options), f"{what} type"))
    return None


def _foreign(word: object, root: Node, options: Sequence[str]) -> str | None:
    """The message for a dataset of another modality, if it is one."""
    expected = f"expected one of {', '.join(options)}"
    if root.child("towers") is None and word in joint():
        return f"{show(word)} is a dataset of several modalities, and there are no towers; {expected}"
    owners = [name for name in modalities() if word in datasets(name)]
    if not owners:
        return None
    whose = f"{show(word)} is a dataset of the modality {' and '.join(owners)}"
    if root.child("towers") is not None:
        return f"{whose}, but towers read datasets of several modalities; {expected}"
    return f"{whose}, but modality.type is {_type(root, 'modality')}; {expected}"
