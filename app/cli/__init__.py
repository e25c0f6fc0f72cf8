"""The command `psharelora`: one file a command, thin, everything printable also as JSON."""

import sys

import typer
from pydantic import ValidationError
from rich.markup import escape

from app.cli import ask, keys
from app.cli.audit import audit
from app.cli.backup import backup, restore
from app.cli.demo import demo
from app.cli.doctor import doctor
from app.cli.evaluate import evaluate
from app.cli.output import EXIT_CODES, FAILURE, MISUSE, UNREACHABLE, err
from app.cli.remote import export, import_preferences, retrain
from app.cli.serve import migrate, serve, worker
from app.cli.simulate import simulate
from app.domain import DomainError, StoreUnavailableError
from app.settings import Settings

app = typer.Typer(
    name="psharelora",
    help="Learn every user's own reward function from pairwise preferences, and serve it.\n\n"
    "Begin with psharelora demo. With your own data: psharelora serve and psharelora worker, then psharelora import "
    'replies pairs.csv --create (columns user, chosen, rejected) and psharelora rank replies ada "One." "Two."',
    epilog="Ends with " + "; ".join(f"{code}: {meaning}" for code, meaning in EXIT_CODES.items()) + ". "
    "Something does not work? psharelora doctor.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
RUNNING, DATA, ASKING, STUDIES = "Run the service", "Put in, take out", "Ask", "Judge the method"
app.command(rich_help_panel=RUNNING)(demo)
app.command(rich_help_panel=RUNNING)(serve)
app.command(rich_help_panel=RUNNING)(worker)
app.command(rich_help_panel=RUNNING)(migrate)
app.command(rich_help_panel=RUNNING)(backup)
app.command(rich_help_panel=RUNNING)(restore)
app.command(rich_help_panel=RUNNING)(doctor)
app.command("import", rich_help_panel=DATA)(import_preferences)
app.command(rich_help_panel=DATA)(export)
app.command(rich_help_panel=DATA)(retrain)
app.command(rich_help_panel=ASKING)(ask.environments)
app.command(rich_help_panel=ASKING)(ask.rank)
app.command(rich_help_panel=ASKING)(ask.explain)
app.command(rich_help_panel=ASKING)(ask.queries)
app.command(rich_help_panel=ASKING)(ask.user)
app.command(rich_help_panel=ASKING)(ask.models)
app.command(rich_help_panel=STUDIES)(evaluate)
app.command(rich_help_panel=STUDIES)(simulate)
app.command(rich_help_panel=RUNNING)(audit)
app.add_typer(keys.app, name="keys", rich_help_panel=RUNNING)


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
        sys.exit(UNREACHABLE if isinstance(error, StoreUnavailableError) else FAILURE)
