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
UNREACHABLE = 3
NOT_READY = 4

EXIT_CODES = {
    0: "it did what was asked",
    FAILURE: "the service refused, or part of it failed; standard error says what",
    MISUSE: "the command was called in a way that it does not understand, or a setting is wrong",
    UNREACHABLE: "no answer came from the service or the database",
    NOT_READY: "the environment has no model yet; record preferences, retrain, and ask again",
}
"""What every command ends with."""


def print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, default=str))


def complain(message: str, *, code: int = FAILURE) -> NoReturn:
    """Say what is wrong on standard error and end."""
    err.print(f"[bold red]error:[/] {escape(message)}", soft_wrap=True)
    raise typer.Exit(code)
