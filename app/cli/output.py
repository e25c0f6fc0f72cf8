"""What commands print: tables for people, JSON for machines, one sentence when something is wrong."""

import json
import sys
from typing import Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

# Tables into a file or a pipe are not folded at 80 columns.
out = Console(highlight=False, width=None if sys.stdout.isatty() else 130)
err = Console(stderr=True, highlight=False)

FAILURE = 1
MISUSE = 2


def print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, default=str))


def complain(message: str, *, code: int = FAILURE) -> NoReturn:
    """Say what is wrong on standard error and end."""
    err.print(f"[bold red]error:[/] {escape(message)}", soft_wrap=True)
    raise typer.Exit(code)
