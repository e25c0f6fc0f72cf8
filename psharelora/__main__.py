"""The command, or how to get it where only the library is installed."""

import importlib.util
import sys

NEEDED = ("typer", "rich", "pydantic_settings", "sqlalchemy", "fastapi")
"""What the extra `server` brings."""

MISUSE = 2


def main() -> None:
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        sys.stderr.write(
            "error: the psharelora command needs the server's packages, and only the library is installed "
            f"(missing: {', '.join(missing)}).\n"
            "Install them with:  pip install 'psharelora[server]'\n"
        )
        sys.exit(MISUSE)
    from app.cli import main as command

    command()


if __name__ == "__main__":
    main()
