"""``hrt-mm config``: shows, checks and documents configurations."""

from __future__ import annotations

import argparse
import json

from .arguments import Commands, add_config, command


def add(commands: Commands) -> None:
    """Adds the command and its own subcommands."""
    text = "show, validate, or give the schema of configurations"
    parser = commands.add_parser("config", help=text, description=text)
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    add_config(command(actions, "show", "print a configuration with every default written out", show))
    add_config(command(actions, "validate", "check a configuration, and that its model can be built", validate))
    schema_parser = command(actions, "schema", "print the JSON Schema of all that is installed, for editors", schema)
    schema_parser.add_argument("--builtin", action="store_true", help="leave out what other packages add")


def show(args: argparse.Namespace) -> int:
    """Prints the resolved configuration."""
    from ..config import load_config, resolved_yaml

    print(resolved_yaml(load_config(args.config, args.overrides)), end="")
    return 0


def validate(args: argparse.Namespace) -> int:
    """Says that a configuration is right."""
    from ..config import check, load_config

    check(load_config(args.config, args.overrides))
    print(f"{args.config}: ok")
    return 0


def schema(args: argparse.Namespace) -> int:
    """Prints the schema."""
    from ..config import json_schema

    print(json.dumps(json_schema(builtin_only=args.builtin), indent=2))
    return 0
