"""What reads bytes that others wrote, fed with whatever leads into a branch that was not taken yet (atheris).

    python benchmarks/fuzz_parsers.py [--seconds 60] [--only NAME]

Lines of an import, files of preferences (CSV, lines) and definitions of MDPs. The scan of lines runs uncompiled, so
that the fuzzer sees its branches and a read beyond the end is an error; afterwards the compiled one reads all that was
found, and must say the same. Anything but rows or an error with words is a finding: the input is kept (crash-...), and
the status is 1.
`pip install -r benchmarks/requirements.lock` brings atheris.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

LATEST = 2_000_000_000_000_000
SEEDS = {
    "lines": (
        b'{"user":"u","chosen":{"item":"a"},"rejected":{"item":"b"},"label":0.7,"weight":1e3,"id":"1"}\n',
        b'{"user":"u","chosen":{"item":"a"},"rejected":{"item":"b"},"occurred_at":"2026-02-28T23:59:59.5-01:00"}\n',
    ),
    "csv": (b"user,chosen,rejected,prompt,weight\nada,Yes.,No.,Rain?,2\n", b'user,chosen,rejected\n"a","[{","b"\n'),
    "records": (b'{"user_id":"ada","chosen":"Yes.","rejected":"No.","occurred_at":"2026-02-28","margin":2}\n',),
    "mdp": (
        b'{"kind":"mdp","states":2,"actions":1,"horizon":2,"transitions":[[0,0,1,1.0],[1,0,1,1.0]]}',
        b'{"kind":"mdp","states":["a","b"],"actions":["x"],"horizon":1,"transitions":[["a","x","b",1]],"terminal":["b"]}',
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=60, help="for each")
    parser.add_argument("--only", choices=sorted(SEEDS))
    parser.add_argument("--corpus", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.corpus is not None:
        fuzz(options.only, options.corpus, options.seconds)
        return
    good = True
    for name in (options.only,) if options.only else SEEDS:
        with tempfile.TemporaryDirectory(prefix="psharelora-parsers-") as folder:
            good = hunted(name, Path(folder), options.seconds) and good
    sys.exit(0 if good else 1)


def hunted(name: str, folder: Path, seconds: int) -> bool:
    """Fuzz one of them in a process of its own, then replay what was found with compiled code."""
    for index, seed in enumerate(SEEDS[name]):
        (folder / f"seed-{index}").write_bytes(seed)
    run = [sys.executable, __file__, "--only", name, "--corpus", str(folder), "--seconds", str(seconds)]
    done = subprocess.run(
        run, env={**os.environ, "NUMBA_DISABLE_JIT": "1"}, capture_output=True, text=True, check=False, cwd=Path.cwd()
    )
    read = reader_of(name)
    corpus = sorted(folder.iterdir())
    for file in corpus:
        read(file.read_bytes())
    tried = next((line for line in done.stderr.splitlines()[::-1] if line.startswith("Done")), "it did not end well")
    print(f"{name}: {tried}; {len(corpus):,} inputs that differ in their branches", flush=True)
    if done.returncode:
        print("\n".join([*done.stdout.splitlines()[-20:], *done.stderr.splitlines()[-20:]]))
    return done.returncode == 0


def fuzz(name: str, corpus: Path, seconds: int) -> None:
    import atheris

    with atheris.instrument_imports(include=["app.api.lines", "app.api.scanning", "app.api.mdps", "app.cli"]):
        read = reader_of(name)
    atheris.Setup(["fuzz", str(corpus), f"-max_total_time={seconds}", "-max_len=2000", "-seed=1", "-timeout=20"], read)
    atheris.Fuzz()


def reader_of(name: str) -> Callable[[bytes], None]:
    return {"lines": lines, "csv": files("pairs.csv"), "records": files("pairs.jsonl"), "mdp": definitions}[name]()


def lines() -> Callable[[bytes], None]:
    from pydantic import TypeAdapter

    from app.api.lines import read_lines
    from app.api.schemas.preferences import PreferenceBody

    thorough = TypeAdapter(PreferenceBody)

    def read(data: bytes) -> None:
        found = read_lines(data, latest=LATEST)
        split = data.removesuffix(b"\n").split(b"\n")
        assert found.n == len(split), (found.n, len(split))
        assert all(split[row] == line for row, line in found.unusual)
        for at, row in enumerate(found.usual.tolist()):
            said, same = found.preferences, thorough.validate_json(split[row])
            assert (said.users[said.user[at]], said.items[said.chosen[at]]) == (same.user, same.chosen.item)
            assert (said.label[at], said.weight[at], said.id(at)) == (same.label, same.weight, same.id)

    return read


def files(name: str) -> Callable[[], Callable[[bytes], None]]:
    def prepared() -> Callable[[bytes], None]:
        from app.cli.formats import guessed_format, preferences_in
        from app.cli.preference_files import BadRecordError, Reading, check_columns
        from app.cli.tables import UnreadableError

        file = Path(tempfile.mkdtemp(prefix="psharelora-file-")) / name

        def read(data: bytes) -> None:
            file.write_bytes(data)
            with suppress(BadRecordError, UnreadableError):
                check_columns(file)
                with file.open("rb") as raw:
                    list(Reading(options="text", with_context=True).blocks(file, raw, lambda _: None))
            with suppress(UnreadableError):
                list(preferences_in(file, guessed_format(file), user="ada"))

        return read

    return prepared


def definitions() -> Callable[[bytes], None]:
    from pydantic import TypeAdapter, ValidationError

    from app.api.mdps import definition_of, mdp_environment
    from app.api.schemas.environments import MdpDefinition
    from app.domain import InvalidInputError

    adapter = TypeAdapter(MdpDefinition)

    def read(data: bytes) -> None:
        try:
            defined = mdp_environment("e", adapter.validate_json(data))
        except (ValidationError, InvalidInputError):
            return
        again = adapter.validate_python({"kind": "mdp", **definition_of(defined)})
        assert definition_of(mdp_environment("e", again)) == definition_of(defined)

    return read


if __name__ == "__main__":
    main()
