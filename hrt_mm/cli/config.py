"""``hrt-mm config``: shows, checks and documents configurations."""

from __future__ import annotations

import argparse
import json
import sys

from .arguments import Commands, add_config, command
from .process import is_unicode


def add(commands: Commands) -> None:
    """Adds the command and its own subcommands."""
    text = "show, validate, or give the schema of configurations"
    parser = commands.add_parser("config", help=text, description=text)
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    add_config(command(actions, "show", "print a configuration with every default written out", show))
    checking = command(
        actions, "validate", "check a configuration, open its data, and take a batch through its model", validate
    )
    add_config(checking)
    checking.add_argument("--no-data", action="store_true", help="check the configuration alone, where the data is not")
    schema_parser = command(actions, "schema", "print the JSON Schema of all that is installed, for editors", schema)
    schema_parser.add_argument("--builtin", action="store_true", help="leave out what other packages add")


def show(args: argparse.Namespace) -> int:
    """Prints the resolved configuration."""
    from ..config import load_config
    from ..train.resolved import resolved_yaml

    config = load_config(args.config, args.overrides)
    print(resolved_yaml(config, ascii_only=not is_unicode(sys.stdout)), end="")
    return 0


def validate(args: argparse.Namespace) -> int:
    """Says that a configuration is right, or what a run would refuse."""
    from ..config import load_config
    from ..core.errors import UserError
    from ..train.check import check
    from ..train.folder import check_folder
    from ..train.rehearsal import rehearse, warnings_of
    from ..train.splits import start_warnings

    config = load_config(args.config, args.overrides)
    check(config)
    found = "the data was not opened" if args.no_data else f"{rehearse(config)} samples; a batch of each went through"
    warnings = warnings_of(config)
    if not args.no_data:
        warnings += start_warnings(config.data)
    try:
        check_folder(config, resume=False)
    except UserError as error:
        # It may well be that of the run that this file was written for.
        warnings.append(str(error))
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print(f"{args.config}: ok ({found})")
    return 0


def schema(args: argparse.Namespace) -> int:
    """Prints the schema."""
    from ..config import json_schema

    print(json.dumps(json_schema(builtin_only=args.builtin), indent=2))
    return 0
