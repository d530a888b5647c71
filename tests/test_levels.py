"""The house's order: a package imports only from levels below its own."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LEVELS = {
    "registry": 0,
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
    "engine": 5,
    "visualization": 5,
    "building": 5,
    "experiment": 6,
    "comparison": 7,
    "doctor": 7,
    "predictor": 7,
    "run": 7,
    "launch": 7,
    "command_line": 7,
}
NOT_FOR = {"engine": {"modeling", "data"}, "config": {"utils"}}
"""What a room does without, although it lies below."""

FILES = sorted((ROOT / "detkit").rglob("*.py"))


def room_of(file: Path) -> str:
    """The package or top-level module of ``file``; empty for ``detkit/__init__.py``."""
    first = file.relative_to(ROOT / "detkit").parts[0]
    return "" if first == "__init__.py" else first.removesuffix(".py")


def imported(tree: ast.AST, package: str) -> Iterator[tuple[int, str]]:
    """``(line, module)`` of every import below ``tree``, wherever it hides; ``package`` is the file's own."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


def rooms_seen(file: Path) -> list[tuple[int, str]]:
    """``(line, room)`` of every room of detkit that ``file`` imports from."""
    package = ".".join(file.relative_to(ROOT).parent.parts)
    found = imported(ast.parse(file.read_text(encoding="utf-8")), package)
    return [(line, name.split(".")[1]) for line, name in found if name.startswith("detkit.")]


def arrow_is_wrong(room: str, other: str) -> bool:
    """Whether a file of ``room`` may not import from ``other``."""
    if other == room or other not in LEVELS:
        return False  # its own room; or a name of detkit/__init__.py such as __version__
    return room == "" or LEVELS[other] >= LEVELS[room] or other in NOT_FOR.get(room, set())


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_no_import_points_upwards(file):
    room = room_of(file)
    assert not room or room in LEVELS, f"{room} has no level: give it one here and in the design page"
    wrong = [f"{file}:{line}: {room} sees {other}" for line, other in rooms_seen(file) if arrow_is_wrong(room, other)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_no_import_of_the_project_hides_in_a_function(file):
    package = ".".join(file.relative_to(ROOT).parent.parts)
    functions = [
        node
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    hidden = [
        f"{file}:{line}: {name}"
        for function in functions
        for line, name in imported(function, package)
        if name.startswith("detkit.")
    ]
    assert not hidden, "\n".join(hidden)


@pytest.mark.parametrize("file", [f for f in FILES if room_of(f) in ("registry", "config")], ids=lambda file: file.name)
def test_the_config_room_does_without_torch(file):
    names = [name.split(".")[0] for _, name in imported(ast.parse(file.read_text(encoding="utf-8")), "detkit.config")]
    assert not {"torch", "torchvision", "numpy"} & set(names)


@pytest.mark.parametrize(
    ("room", "code", "wrong"),
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
def test_the_walk_sees_arrows_in_every_form(room, code, wrong):
    names = [name for _, name in imported(ast.parse(code), f"detkit.{room}")]
    found = any(arrow_is_wrong(room, name.split(".")[1]) for name in names if name.startswith("detkit."))
    assert found is wrong
