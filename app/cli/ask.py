"""Commands that ask a running service: environments, user, rank, explain, queries, models."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from app.cli.output import MISUSE, complain, out, print_json
from app.cli.remote import AsJson, EnvironmentName, Key, Url, connected
from app.client import DEFAULT_URL

User = Annotated[str, typer.Argument(help="The user's id; one nobody has heard of is served the population's answer.")]

LONGEST_CELL = 70
"""Characters of a text in a table."""


def environments(*, url: Url = DEFAULT_URL, key: Key = None, as_json: AsJson = False) -> None:
    """List the environments: how much is in them, and which model is served."""
    with connected(url, key) as client:
        found = client.environments()["environments"]
    if as_json:
        print_json(found)
        return
    table = Table("environment", "kind", "items", "users", "preferences", "model")
    for one in found:
        counts = (one["n_items"], one["n_users"], one["n_preferences"])
        table.add_row(one["name"], one["kind"], *(f"{count:,}" for count in counts), _or_none(one["model_version"]))
    out.print(table)


def user(
    *, environment: EnvironmentName, user: User, url: Url = DEFAULT_URL, key: Key = None, as_json: AsJson = False
) -> None:
    """What is known of a user."""
    with connected(url, key) as client:
        found = client.user(environment, user)
    if as_json:
        print_json(found)
        return
    table = Table.grid(padding=(0, 2))
    for name, value in found.items():
        table.add_row(name, escape(_or_none(value)))
    out.print(table)


def rank(
    *,
    environment: EnvironmentName,
    user: User,
    texts: Annotated[
        list[str] | None, typer.Argument(help="Texts to rank; without any, the whole catalogue.", show_default=False)
    ] = None,
    item: Annotated[list[str] | None, typer.Option(help="Rank these items; may be given several times.")] = None,
    file: Annotated[
        Path | None, typer.Option(help="Rank the lines of this file as texts; - is standard input.")
    ] = None,
    prompt: Annotated[str | None, typer.Option(help="What they answer, where the environment has contexts.")] = None,
    top: Annotated[int, typer.Option(min=1, help="How many to show.")] = 10,
    cautious: Annotated[
        bool, typer.Option("--cautious", help="What is surely good before what is perhaps better.")
    ] = False,
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Rank texts, items or the whole catalogue for a user, best first.

    A reward is log-odds against the environment's reference: 1 is chosen over it 73% of the time. Bounds hold at the
    environment's confidence.
    """
    options = [{"text": text} for text in [*(texts or ()), *_lines(file)]] + [{"item": one} for one in item or ()]
    context = None if prompt is None else {"text": prompt}
    with connected(url, key) as client:
        found = client.rank(
            environment, user, options=options or None, context=context, top_n=top, by="lower" if cautious else "mean"
        )
    if as_json:
        print_json(found)
        return
    table = Table("", "option", "reward", "+/-", "lower", "upper")
    for place, one in enumerate(found["options"], start=1):
        numbers = (one["reward"], one["stderr"], one["lower"], one["upper"])
        table.add_row(str(place), escape(named(one["option"])), *(f"{number:.2f}" for number in numbers))
    out.print(table)
    known = f"{found['feedback_seen']} answers of {escape(user)}"
    if not found["feedback_seen"]:
        known = f"nothing is known of {escape(user)}: this is the population's answer"
    out.print(f"model version {found['model_version']}; {known}")


def explain(
    *,
    environment: EnvironmentName,
    user: User,
    item: Annotated[str | None, typer.Option(help="An item of the catalogue.")] = None,
    text: Annotated[str | None, typer.Option(help="A text.")] = None,
    state: Annotated[str | None, typer.Option(help="A state of a decision process, with --action.")] = None,
    action: Annotated[str | None, typer.Option(help="An action, with --state.")] = None,
    n: Annotated[int, typer.Option("-n", min=1, max=100, help="How many of the user's answers to name.")] = 5,
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Say why a reward is what it is: which answers moved it, and where the user stands out."""
    with connected(url, key) as client:
        found = client.explain(environment, user, item=item, text=text, state=state, action=action, n=n)
    if as_json:
        print_json(found)
        return
    out.print(escape(found["words"]))
    answers = Table("answer", "moved")
    for moved in found["comparisons"]:
        answers.add_row(escape(moved["words"].rpartition(":")[0]), f"{moved['moved']:+.2f}")
    directions = Table("direction", "position", "+/-", "adds", "")
    for one in found["directions"]:
        numbers = (one["position"], one["stderr"], one["moved"])
        shown = escape(one["words"].rpartition(":")[0])
        directions.add_row(str(one["direction"]), *(f"{number:+.2f}" for number in numbers), shown)
    for table in (answers, directions):
        if table.row_count:
            out.print(table)


def queries(
    *,
    environment: EnvironmentName,
    user: User,
    n: Annotated[int, typer.Option("-n", min=1, max=100, help="How many pairs.")] = 3,
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """What to ask a user next: the pairs whose answers tell most."""
    with connected(url, key) as client:
        found = client.queries(environment, user, n=n)
    if as_json:
        print_json(found)
        return
    table = Table("first", "second", "first is chosen", "information (nats)")
    for one in found["queries"]:
        sides = (escape(named(one["first"])), escape(named(one["second"])))
        table.add_row(*sides, f"{one['probability']:.0%}", f"{one['information']:.3f}")
    out.print(table)


def models(
    *,
    environment: EnvironmentName,
    promote: Annotated[int | None, typer.Option(min=1, help="Serve this version from now on.")] = None,
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """List model versions with what they are worth on held-out comparisons, or promote one."""
    with connected(url, key) as client:
        if promote is not None:
            client.promote(environment, promote)
        found = client.models(environment)["models"]
    if as_json:
        print_json(found)
        return
    table = Table("version", "status", "rank", "users", "preferences", "accuracy", "of one for everybody", "why")
    for one in found:
        scores = [one["metrics"].get(name, {}).get("accuracy") for name in ("new", "global")]
        shown = ["" if score is None else f"{score:.3f}" for score in scores]
        counts = (one["rank"], one["n_users"], one["n_preferences"])
        table.add_row(str(one["version"]), one["status"], *map(str, counts), *shown, escape(one["reason"]))
    out.print(table)


def named(option: dict[str, Any]) -> str:
    """An option in a table's cell."""
    match option:
        case {"item": str(name)} | {"text": str(name)}:
            line = " ".join(name.split())
            return line if len(line) <= LONGEST_CELL else f"{line[:LONGEST_CELL]}..."
        case {"trajectory": list(steps)}:
            return " ".join(f"{state}:{action}" for state, action in steps)
        case _:
            return str(option)


def _lines(file: Path | None) -> list[str]:
    if file is None:
        return []
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text()
    except OSError as error:
        complain(f"{file}: {error.strerror}", code=MISUSE)
    return [line for line in text.splitlines() if line.strip()]


def _or_none(value: Any) -> str:
    return "none" if value is None else str(value)
