"""The command `psharelora`: one file a command, thin, everything printable also as JSON."""

import sys

import typer
from pydantic import ValidationError
from rich.markup import escape

from app.cli import keys
from app.cli.demo import demo
from app.cli.evaluate import evaluate
from app.cli.output import FAILURE, MISUSE, err
from app.cli.remote import export, import_preferences, retrain
from app.cli.serve import migrate, serve, worker
from app.cli.simulate import simulate
from app.domain import DomainError
from app.settings import Settings

app = typer.Typer(
    name="psharelora",
    help="Learn every user's own reward function from pairwise preferences, and serve it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command()(demo)
app.command()(serve)
app.command()(worker)
app.command()(migrate)
app.command("import")(import_preferences)
app.command()(export)
app.command()(retrain)
app.command()(evaluate)
app.command()(simulate)
app.add_typer(keys.app, name="keys")


def main() -> None:
    """Run the command; what is wrong with its settings or its database is one sentence, not a traceback."""
    try:
        app()
    except ValidationError as error:
        if error.title != Settings.__name__:
            raise
        for found in error.errors():
            name = "".join(f"PSHARELORA_{str(part).upper()}: " for part in found["loc"])
            err.print(f"[bold red]error:[/] {name}{found['msg'].removeprefix('Value error, ')}", soft_wrap=True)
        sys.exit(MISUSE)
    except DomainError as error:
        err.print(f"[bold red]error:[/] {escape(error.message)}", soft_wrap=True)
        sys.exit(FAILURE)
