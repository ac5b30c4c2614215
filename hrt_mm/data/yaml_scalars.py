"""The scalars of YAML 1.2, for PyYAML."""

from __future__ import annotations

import re
from typing import Any

PREFIX = "tag:yaml.org,2002:"
SCALARS = {
    "null": (re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""]),
    "bool": (re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")),
    "int": (re.compile(r"^(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$"), list("-+0123456789")),
    "float": (
        re.compile(
            r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
        ),
        list("-+.0123456789"),
    ),
}
"""Pattern and possible first characters of a scalar, by the name of its tag."""


def core_resolvers(cls: Any) -> Any:
    """Gives a PyYAML loader or dumper the scalars of YAML 1.2, where ``no`` is a string."""
    cls.yaml_implicit_resolvers = {}
    for name, (pattern, first) in SCALARS.items():
        cls.add_implicit_resolver(PREFIX + name, pattern, first)
    return cls
