"""The command `psharelora`: one file a command, thin, everything printable also as JSON."""

import typer

from app.cli import keys
from app.cli.demo import demo
from app.cli.evaluate import evaluate
from app.cli.remote import export, import_preferences, retrain
from app.cli.serve import migrate, serve, worker
from app.cli.simulate import simulate

app = typer.Typer(
    name="psharelora",
    help="Learn every user's own reward function from pairwise preferences, and serve it.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
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
    app()
