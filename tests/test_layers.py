"""The order of rooms: imports go down, and never in a circle.

Every import counts, those inside functions and for the type checker too.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src"
# From the ground up; rooms on one floor may import each other, without a circle.
FLOORS = [
    {"files", "keys", "notebooks", "paths", "progress", "words", "stubs"},
    {"parallel"},
    {"data"},
    {"views"},
    {"models"},
    {"prompts"},
    {"store"},
    {"methods"},
    {"results"},
    {"figures"},
    {"study"},
    {"chapters"},
]
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
DOORS = {
    "helpers.data.embedded",
    "helpers.models.captioner",
    "helpers.study.command",
}
# What a method may import of ours: tensors, no files.
METHODS_USE = {"keys", "methods", "data", "views", "models", "prompts"}


def modules(source: Path) -> dict[str, Path]:
    """Modules of `source` by their dotted names; a package has its folder's."""
    found = {}
    for path in sorted(source.rglob("*.py")):
        parts = path.relative_to(source).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(name: str, path: Path, known: dict[str, Path]) -> Iterator[str]:
    """Modules that a module imports anywhere in its text, its own and others'."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = [*(parents if node.level else []), *filter(None, [node.module])]
            for alias in node.names:
                full = ".".join([*base, alias.name])
                yield full if full in known else ".".join(base)


def room(name: str) -> str:
    """`helpers.data.pool` lies in `data`, all of picto in `picto`."""
    top, *below = name.split(".")
    return below[0] if top == "helpers" and below else top


def faults(source: Path) -> set[str]:
    """Each arrow that breaks the order, and each circle."""
    known = modules(source)
    uses = {name: {*imports(name, path, known)} for name, path in known.items()}
    found = set()
    for name, used in uses.items():
        here = room(name)
        if name != "helpers" and here != "picto" and here not in FLOOR:
            found.add(f"{name}: give the room a place in FLOORS")
            continue
        for other in sorted(used - {name}):
            there, ours = room(other), other in known
            if here == "methods" and (
                other.split(".")[0] in {"io", "os", "pathlib", "psutil", "shutil"}
                or (ours and there not in METHODS_USE)
            ):
                found.add(f"{name} -> {other}: a method reads or writes files")
            elif not ours or there == here:
                continue
            elif there == "picto":
                if name not in DOORS:
                    found.add(f"{name} -> {other}: only three modules know picto")
            elif here == "picto":
                if FLOOR.get(there, 0) > FLOOR["store"]:
                    found.add(f"{name} -> {other}: picto needs no {there}")
            elif FLOOR.get(there, 0) > FLOOR.get(here, len(FLOORS)):
                found.add(f"{name} -> {other}: a lower room imports a higher")
    # The doors open into picto, which imports helpers: no circle but a visit.
    for top in ("helpers", "picto"):
        inside = {
            name: {u for u in used if u in known and u.split(".")[0] == top} - {name}
            for name, used in uses.items()
            if name.split(".")[0] == top
        }
        found |= circles(inside)
    return found


def circles(uses: dict[str, set[str]]) -> set[str]:
    """A line for each group of modules that import each other around."""

    def reached(name: str) -> set[str]:
        found, ahead = set(), [name]
        while ahead:
            new = uses[ahead.pop()] - found
            found |= new
            ahead += new
        return found

    ways = {name: reached(name) for name in uses}
    groups = {
        ", ".join(sorted(other for other in way if name in ways[other]))
        for name, way in ways.items()
        if name in way
    }
    return {f"circle: {group}" for group in groups}


def test_imports_go_down_and_in_no_circle():
    assert faults(SOURCE) == set()


@pytest.mark.parametrize(
    ("place", "text", "fault"),
    [
        (
            "helpers/data/new.py",
            "def read():\n    from helpers.models import clip\n",
            "helpers.data.new -> helpers.models.clip: a lower room imports a higher",
        ),
        (
            "helpers/views/new.py",
            "from typing import TYPE_CHECKING\n"
            "if TYPE_CHECKING:\n    from ..study.checks import check\n",
            "helpers.views.new -> helpers.study.checks: a lower room imports a higher",
        ),
        (
            "helpers/methods/new.py",
            "import helpers.files\n",
            "helpers.methods.new -> helpers.files: a method reads or writes files",
        ),
        (
            "helpers/models/clip.py",
            "import picto.splits\n",
            "helpers.models.clip -> picto.splits: only three modules know picto",
        ),
        (
            "picto/new.py",
            "from helpers.study import checks\n",
            "picto.new -> helpers.study.checks: picto needs no study",
        ),
        (
            "helpers/paths.py",
            "from . import words\n",
            "circle: helpers.paths, helpers.words",
        ),
        ("helpers/new/one.py", "", "helpers.new.one: give the room a place in FLOORS"),
    ],
)
def test_a_planted_arrow_is_found(place, text, fault, tmp_path):
    files = {
        "helpers/models/clip.py": "",
        "helpers/study/checks.py": "",
        "helpers/files.py": "",
        "helpers/paths.py": "",
        "helpers/words.py": "import helpers.paths\n",
        "picto/splits.py": "",
        "helpers/data/embedded.py": "import picto.splits\n",
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    assert not faults(tmp_path)
    (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / place).write_text(text)
    assert faults(tmp_path) == {fault}
