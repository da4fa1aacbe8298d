"""Facts about a checkout's source: its modules, who imports whom, circles, copies, repeated guards.

Everything is read from the text with `ast`; nothing is imported. The mapping of `envs/`,
`policies/` and `assets/` to packages of `wm_gym` is read from pyproject.toml.
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

_LOOKED_AT = ("asdict", "fields", "replace", "isinstance", "getattr")
"""Functions that look at a config without being handed it on."""

COPIED_LINES = 6
"""Normalised lines in a row that make two places a near-copy."""

_GUARD = re.compile(r"with other|\(stored, asked\)")


@dataclass(frozen=True)
class Import:
    """One module imports another.

    Attributes:
        source: the importing module.
        target: the imported one.
        kind: `top` at import time, `type` under TYPE_CHECKING, `lazy` inside a function.
    """

    source: str
    target: str
    kind: str


def modules(root: Path) -> dict[str, Path]:
    """Dotted name -> file, of every module of the package."""
    setup = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["tool"][
        "setuptools"
    ]
    found = {}
    for package, folder in setup["package-dir"].items():
        for path in sorted((root / folder).rglob("*.py")):
            parts = (*package.split("."), *path.relative_to(root / folder).with_suffix("").parts)
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(root: Path) -> set[Import]:
    """Every import of a module of the package by another, those for types and lazy ones too."""
    known = modules(root)
    found = set()
    for name, path in known.items():
        for node, kind in _import_nodes(ast.parse(path.read_text(encoding="utf-8")), "top"):
            if isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            else:
                base = _absolute(node, name, path)
                targets = [
                    f"{base}.{alias.name}" if f"{base}.{alias.name}" in known else base
                    for alias in node.names
                ]
            found |= {
                Import(name, target, kind)
                for target in targets
                if target in known and target != name
            }
    return found


def _absolute(node: ast.ImportFrom, name: str, path: Path) -> str:
    """The module that `from … import` names, relative dots resolved."""
    if not node.level:
        return node.module or ""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    parts = package.split(".")
    parts = parts[: len(parts) - node.level + 1]
    return ".".join([*parts, node.module] if node.module else parts)


def _import_nodes(tree: ast.AST, kind: str) -> Iterator[tuple[ast.Import | ast.ImportFrom, str]]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node, kind
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.body:
                yield from _import_nodes(ast.Module([child], []), "type")
            for child in node.orelse:
                yield from _import_nodes(ast.Module([child], []), kind)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from _import_nodes(node, "lazy")
        else:
            yield from _import_nodes(node, kind)


def circles(
    found: set[Import], kinds: tuple[str, ...] = ("top", "type", "lazy")
) -> list[list[str]]:
    """Groups of modules that import one another, directly or by way of each other.

    Args:
        found: the imports.
        kinds: those that count.

    Returns:
        The strongly connected groups of two modules or more, sorted.
    """
    arrows: dict[str, set[str]] = defaultdict(set)
    for entry in found:
        if entry.kind in kinds:
            arrows[entry.source].add(entry.target)
    reached = {name: _reached(name, arrows) for name in arrows}
    groups = set()
    for name, others in reached.items():
        if name in others:
            groups.add(frozenset(n for n in others if name in reached.get(n, set())))
    return sorted(sorted(group) for group in groups)


def _reached(name: str, arrows: dict[str, set[str]]) -> set[str]:
    seen: set[str] = set()
    waiting = [name]
    while waiting:
        for target in arrows.get(waiting.pop(), ()):
            if target not in seen:
                seen.add(target)
                waiting.append(target)
    return seen


def near_copies(files: list[Path]) -> list[tuple[Path, int, Path, int, int]]:
    """Pairs of places that share `COPIED_LINES` normalised lines or more.

    A line counts without its indentation; blank lines, comments, docstrings and imports do not
    count, nor do lines without a letter.

    Returns:
        File, line, file, line, and number of lines alike, of every pair that cannot be extended.
    """
    places: dict[tuple[str, ...], list[tuple[int, int]]] = defaultdict(list)
    texts = [_normalised(path) for path in files]
    for number, text in enumerate(texts):
        for at in range(len(text) - COPIED_LINES + 1):
            places[tuple(line for _, line in text[at : at + COPIED_LINES])].append((number, at))
    pairs = {pair for where in places.values() for pair in combinations(where, 2)}
    found = []
    for (one, a), (other, b) in sorted(pairs):
        if ((one, a - 1), (other, b - 1)) in pairs:
            continue
        if one == other and b - a < COPIED_LINES:
            continue
        length = COPIED_LINES
        while (
            (one, a + length - COPIED_LINES + 1),
            (other, b + length - COPIED_LINES + 1),
        ) in pairs:
            length += 1
        found.append((files[one], texts[one][a][0], files[other], texts[other][b][0], length))
    return found


def _normalised(path: Path) -> list[tuple[int, str]]:
    text = path.read_text(encoding="utf-8")
    skipped: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and not isinstance(node.value, ast.Constant):
            continue
        if isinstance(node, ast.Expr | ast.Import | ast.ImportFrom):
            skipped |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    kept = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("  # ")[0].strip()
        if number not in skipped and not words.startswith("#") and re.search("[A-Za-z]", words):
            kept.append((number, words))
    return kept


def resume_guards(root: Path) -> list[str]:
    """Functions that refuse a folder or file which holds a run with other settings."""
    found = []
    for name, path in modules(root).items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                raised = [
                    _message(child) for child in ast.walk(node) if isinstance(child, ast.Raise)
                ]
                if any("restore it" not in text and _GUARD.search(text) for text in raised):
                    found.append(f"{name}.{node.name}")
    return sorted(found)


def _message(node: ast.Raise) -> str:
    """The words of the message, values left out."""
    parts = [child for child in ast.walk(node) if isinstance(child, ast.Constant)]
    parts.sort(key=lambda child: (child.lineno, child.col_offset))
    return " ".join(str(child.value) for child in parts if isinstance(child.value, str))


def isinstance_calls(paths: list[Path]) -> int:
    """How often these files ask for a class with `isinstance`."""
    return sum(
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "isinstance"
        for path in paths
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    )


def config_hops(root: Path, module: str, function: str, name: str = "config") -> list[str]:
    """Calls that hand a recipe's whole config on, followed from its function.

    Args:
        root: the checkout.
        module: where the recipe is.
        function: its function.
        name: name of the parameter that holds the config.

    Returns:
        `module.function -> callee` of every such call, once each. Callees that are functions or
        classes of the package are followed; of a class, all its methods that read the attribute of
        the same name.
    """
    known = modules(root)
    trees = {dotted: ast.parse(path.read_text(encoding="utf-8")) for dotted, path in known.items()}
    hops: list[str] = []
    waiting, seen = [(module, function)], set()
    while waiting:
        here = waiting.pop(0)
        if here in seen or here[0] not in trees:
            continue
        seen.add(here)
        for node in _definitions(trees[here[0]], here[1]):
            for call in (n for n in ast.walk(node) if isinstance(n, ast.Call)):
                given = [*call.args, *(keyword.value for keyword in call.keywords)]
                if not any(ast.unparse(value) in (name, f"self.{name}") for value in given):
                    continue
                called = ast.unparse(call.func)
                if called.rpartition(".")[2] in _LOOKED_AT:
                    continue
                hops.append(f"{here[0]}.{here[1]} -> {called}")
                waiting.append(_resolved(trees, known, here[0], called))
    return list(dict.fromkeys(hops))


def _definitions(tree: ast.Module, name: str) -> list[ast.AST]:
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        and node.name == name
    ]


def _resolved(
    trees: dict[str, ast.Module], known: dict[str, Path], module: str, called: str
) -> tuple[str, str]:
    """Module and name of what is called, as far as imports tell it."""
    head, _, rest = called.partition(".")
    last = rest.rpartition(".")[2] or head
    for node in ast.walk(trees[module]):
        if isinstance(node, ast.ImportFrom) and node.module in known:
            for alias in node.names:
                if (alias.asname or alias.name) == head:
                    inside = f"{node.module}.{alias.name}"
                    return (inside, last) if inside in known else (node.module, alias.name)
    return module, last
