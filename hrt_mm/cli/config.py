"""``hrt-mm config``: prints, validates and documents configurations."""

from __future__ import annotations

import argparse
import json
import sys

from .arguments import Commands, add_config, command
from .process import is_unicode


def add(commands: Commands) -> None:
    """Adds the command and its own subcommands."""
    text = "print or validate a configuration, or print the schema"
    parser = commands.add_parser("config", help=text, description=text)
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    add_config(command(actions, "show", "print a configuration with all defaults", show))
    checking = command(
        actions,
        "validate",
        "validate a configuration, load its data, and run a batch of each split through its model",
        validate,
    )
    add_config(checking)
    checking.add_argument("--no-data", action="store_true", help="do not load the data")
    schema_parser = command(actions, "schema", "print the JSON Schema of configurations, for editors", schema)
    schema_parser.add_argument("--builtin", action="store_true", help="exclude plug-ins of other packages")


def show(args: argparse.Namespace) -> int:
    """Prints the resolved configuration."""
    from ..config import load_config
    from ..train.resolved import resolved_yaml

    config = load_config(args.config, args.overrides)
    print(resolved_yaml(config, ascii_only=not is_unicode(sys.stdout)), end="")
    return 0


def validate(args: argparse.Namespace) -> int:
    """Validates a configuration, and prints what a run would reject."""
    from ..config import load_config
    from ..core.errors import UserError
    from ..train.check import check
    from ..train.folder import check_folder
    from ..train.rehearsal import rehearse, warnings_of
    from ..train.splits import start_warnings

    config = load_config(args.config, args.overrides)
    check(config)
    result = "the data was not loaded" if args.no_data else f"{rehearse(config)} samples; ran a batch of each split"
    warnings = warnings_of(config)
    if not args.no_data:
        warnings += start_warnings(config.data)
    try:
        check_folder(config, resume=False)
    except UserError as error:
        # The folder may belong to a run of this very configuration.
        warnings.append(str(error))
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print(f"{args.config}: ok ({result})")
    return 0


def schema(args: argparse.Namespace) -> int:
    """Prints the schema."""
    from ..config import json_schema

    print(json.dumps(json_schema(builtin_only=args.builtin), indent=2))
    return 0
