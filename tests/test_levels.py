"""The order of the packages: each imports from levels below its own alone, and no files import in a circle."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LEVELS = {
    "paths": 0,
    "ranges": 0,
    "signals": -1,
    "registry": 0,
    "zoo": -1,
    "utils": 0,
    "config": 1,
    "layers": 1,
    "structures": 2,
    "data": 3,
    "modeling": 3,
    "solver": 3,
    "evaluation": 4,
    "checkpoint": 4,
    "inference": 4,
    "views": 4,
    "export": 5,
    "engine": 5,
    "visualization": 5,
    "experiment": 6,
    "doctor": 7,
    "report": 7,
    "predictor": 7,
    "launch": 7,
    "command_line": 5,
    "comparisons": 7,
    "evaluating": 8,
    "training": 9,
    "api": 10,
    "commands": 10,
    "__main__": 11,
}
NOT_FOR = {"engine": {"modeling", "data"}, "config": {"utils"}}
"""What a package does without, although it lies below."""

FILES = sorted((ROOT / "detkit").rglob("*.py"))


def package_of(file: Path) -> str:
    """The package or top-level module of ``file``; empty for ``detkit/__init__.py``."""
    first = file.relative_to(ROOT / "detkit").parts[0]
    return "" if first == "__init__.py" else first.removesuffix(".py")


def imported(tree: ast.AST, own: str) -> Iterator[tuple[int, str]]:
    """``(line, module)`` of every import below ``tree``, wherever it hides; ``own`` is the file's package."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = own.split(".")[: len(own.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


def packages_seen(file: Path) -> list[tuple[int, str]]:
    """``(line, package)`` of every package of detkit that ``file`` imports from."""
    found = imported(ast.parse(file.read_text(encoding="utf-8")), ".".join(file.relative_to(ROOT).parent.parts))
    return [(line, name.split(".")[1]) for line, name in found if name.startswith("detkit.")]


def arrow_is_wrong(package: str, other: str) -> bool:
    """Whether a file of ``package`` may not import from ``other``."""
    if other == package or other not in LEVELS:
        return False  # its own package; or a name of detkit/__init__.py such as __version__
    return package == "" or LEVELS[other] >= LEVELS[package] or other in NOT_FOR.get(package, set())


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_no_import_points_upwards(file):
    package = package_of(file)
    assert not package or package in LEVELS, f"{package} has no level: give it one here and in the design page"
    wrong = [
        f"{file}:{line}: {package} sees {other}"
        for line, other in packages_seen(file)
        if arrow_is_wrong(package, other)
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_no_import_of_the_project_hides_in_a_function(file):
    own = ".".join(file.relative_to(ROOT).parent.parts)
    functions = [
        node
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    hidden = [
        f"{file}:{line}: {name}"
        for function in functions
        for line, name in imported(function, own)
        if name.startswith("detkit.")
    ]
    assert not hidden, "\n".join(hidden)


@pytest.mark.parametrize(
    "file", [f for f in FILES if package_of(f) in ("registry", "config")], ids=lambda file: file.name
)
def test_the_config_package_does_without_torch(file):
    names = [name.split(".")[0] for _, name in imported(ast.parse(file.read_text(encoding="utf-8")), "detkit.config")]
    assert not {"torch", "torchvision", "numpy"} & set(names)


def module_of(file: Path) -> str:
    """The dotted name of a file; a package's is that of its ``__init__.py``."""
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def import_graph(sources: dict[str, str]) -> dict[str, set[str]]:
    """Module -> the modules of ``sources`` that it imports, for typing alone too, from the modules' code."""
    packages = {module for module in sources for other in sources if other.startswith(f"{module}.")}
    graph = {}
    for module, code in sources.items():
        own = module if module in packages else module.rpartition(".")[0]
        names = [name for _, name in imported(ast.parse(code), own)]
        targets = {name if name in sources else name.rpartition(".")[0] for name in names}
        graph[module] = (targets & set(sources)) - {module}
    return graph


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """The sets of modules that import one another in a circle."""
    reach = {module: set(others) for module, others in graph.items()}
    for middle in graph:
        for others in reach.values():
            if middle in others:
                others |= reach[middle]
    rings = {
        tuple(sorted(m for m in reach[module] if module in reach[m])) for module in graph if module in reach[module]
    }
    return [list(ring) for ring in sorted(rings)]


def test_no_files_import_each_other_in_a_circle():
    sources = {module_of(file): file.read_text(encoding="utf-8") for file in FILES}
    graph = import_graph(sources)
    lines = [f"{module} -> {sorted(graph[module] & set(ring))}" for ring in circles(graph) for module in ring]
    assert not lines, "\n".join(lines)


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        ({"p": "", "p.a": "from p import b", "p.b": "from p.a import x"}, [["p.a", "p.b"]]),
        ({"p": "from p.a import x", "p.a": "from p import x"}, [["p", "p.a"]]),
        ({"p": "", "p.a": "if TYPE_CHECKING:\n from .b import x", "p.b": "import p.c", "p.c": "def f():\n import p.a"},
         [["p.a", "p.b", "p.c"]]),
        ({"p": "from p.a import x", "p.a": "from p.b import y", "p.b": "import torch", "p.c": "import p"}, []),
    ],
)  # fmt: skip
def test_circles_are_seen_in_every_form(sources, expected):
    assert circles(import_graph(sources)) == expected


@pytest.mark.parametrize(
    ("package", "code", "wrong"),
    [
        ("structures", "from detkit.modeling import anchors", True),
        ("structures", "def f():\n    import detkit.data.loader", True),
        ("structures", "from detkit import modeling", True),
        ("structures", "from ..modeling import anchors", True),
        ("data", "from detkit.modeling.matcher import Matcher", True),
        ("engine", "import detkit.data", True),
        ("structures", "from detkit.layers import nms", False),
        ("structures", "from detkit import __version__", False),
        ("structures", "from . import boxes\nfrom .boxes import Boxes", False),
        ("structures", "import torch", False),
    ],
)
def test_the_walk_sees_arrows_in_every_form(package, code, wrong):
    names = [name for _, name in imported(ast.parse(code), f"detkit.{package}")]
    found = any(arrow_is_wrong(package, name.split(".")[1]) for name in names if name.startswith("detkit."))
    assert found is wrong
