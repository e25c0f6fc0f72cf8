"""What commands print: tables for people, JSON for machines, one sentence when something is wrong."""

import json
from typing import Any, NoReturn

import typer
from rich.console import Console

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

FAILURE = 1
MISUSE = 2


def print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, default=str))


def complain(message: str, *, code: int = FAILURE) -> NoReturn:
    """Say what is wrong on standard error and end."""
    err.print(f"[bold red]error:[/] {message}", soft_wrap=True)
    raise typer.Exit(code)
