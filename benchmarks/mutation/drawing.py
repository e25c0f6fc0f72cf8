"""Which mutants: sites of the source at random, and at each one of cosmic-ray's operators that apply to it."""

import ast
import difflib
import hashlib
import random
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

import cosmic_ray.plugins
from cosmic_ray.ast import ast_nodes, get_ast_from_path
from cosmic_ray.mutating import mutate_code

PACKAGES = ("app/learning", "app/policy", "app/store")
UNREAD = ("preparation.py", "__init__.py")
"""What computes only in order to have it compiled, and what only names what is elsewhere."""

UNTOLD_DECORATORS = ("njit", "override")

Place = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Mutant:
    path: str
    operator: str
    occurrence: int
    line: int
    was: str
    """The lines that it changes."""
    becomes: str
    nth: int
    """Of those in the module that change such a line alike."""

    @property
    def name(self) -> str:
        nth = f" ({self.nth})" if self.nth else ""
        return f"{self.path}{nth}: {self.was} -> {self.becomes or '(nothing)'}"


@dataclass(frozen=True, slots=True)
class Site:
    path: str
    start: Place
    mutants: tuple[tuple[str, int], ...]
    """Operator and occurrence."""
    digest: bytes
    """Of the seed and of what stands there, not of where it stands: a draw hardly changes with the lines around it."""


def draw(tree: Path, count: int, seed: int) -> list[Mutant]:
    """The `count` sites whose digests are smallest, and a mutant of each."""
    sites = [site for path in modules(tree) for site in sites_of(tree, path, seed)]
    drawn: list[Mutant] = []
    seen: Counter[tuple[str, str, str]] = Counter()
    for site in sorted(sites, key=lambda one: one.digest):
        if len(drawn) == count:
            break
        operator, occurrence = random.Random(site.digest).choice(site.mutants)
        changed = _change(tree, site.path, operator, occurrence)
        if changed is not None:
            nth = seen[site.path, *changed]
            seen[site.path, *changed] += 1
            drawn.append(Mutant(site.path, operator, occurrence, site.start[0], *changed, nth))
    return drawn


def modules(tree: Path) -> list[str]:
    found = (path for package in PACKAGES for path in sorted((tree / package).rglob("*.py")))
    return [str(path.relative_to(tree)) for path in found if path.name not in UNREAD]


def sites_of(tree: Path, path: str, seed: int) -> list[Site]:
    """The places of a module to which any operator applies, outside what no test can tell."""
    source = (tree / path).read_text()
    nodes = list(ast_nodes(get_ast_from_path(tree / path)))
    silent = _silent(source)
    found: dict[tuple[Place, Place], list[tuple[str, int]]] = defaultdict(list)
    for name in sorted(cosmic_ray.plugins.operator_names()):
        operator = cosmic_ray.plugins.get_operator(name)
        if operator.arguments():
            continue
        positions = (place for node in nodes for place in operator().mutation_positions(node))
        for occurrence, (start, end) in enumerate(positions):
            if not any(first <= start < last for first, last in silent):
                found[start, end].append((name, occurrence))
    lines = source.splitlines()
    alike: Counter[str] = Counter()
    sites = []
    for start, end in sorted(found):
        line = lines[start[0] - 1]
        column = start[1] - (len(line) - len(line.lstrip()))
        what = f"{seed} {path} {line.strip()} {column} {end[0] - start[0]} {end[1] - start[1]}"
        digest = hashlib.sha256(f"{what} {alike[what]}".encode()).digest()
        alike[what] += 1
        sites.append(Site(path, start, tuple(found[start, end]), digest))
    return sites


def _silent(source: str) -> list[tuple[Place, Place]]:
    """Where annotations and decorators that change no answer begin and end."""
    found: list[ast.expr] = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.AnnAssign(annotation=annotation) | ast.arg(annotation=ast.expr() as annotation):
                found.append(annotation)
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                found += [one for one in node.decorator_list if _called(one) in UNTOLD_DECORATORS]
                if not isinstance(node, ast.ClassDef) and node.returns is not None:
                    found.append(node.returns)
    # A decorator's own place begins at its sign.
    return [((one.lineno, max(one.col_offset - 1, 0)), (one.end_lineno or 0, one.end_col_offset or 0)) for one in found]


def _called(decorator: ast.expr) -> str:
    name = decorator.func if isinstance(decorator, ast.Call) else decorator
    return name.id if isinstance(name, ast.Name) else ""


def mutated(source: str, operator: str, occurrence: int) -> str:
    code: str = mutate_code(source, cosmic_ray.plugins.get_operator(operator)(), occurrence)
    return code


def _change(tree: Path, path: str, operator: str, occurrence: int) -> tuple[str, str] | None:
    """The lines before and after; None where it is not Python, or no other Python than before."""
    source = (tree / path).read_text()
    changed = mutated(source, operator, occurrence)
    try:
        if ast.dump(ast.parse(changed)) == ast.dump(ast.parse(source)):
            return None
    except SyntaxError:
        return None
    difference = list(difflib.ndiff(source.splitlines(), changed.splitlines()))
    was, becomes = (" ".join(line[2:].strip() for line in difference if line.startswith(sign)) for sign in ("- ", "+ "))
    return was, becomes
