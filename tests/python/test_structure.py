"""The house: which module may import which."""

from __future__ import annotations

import ast
import graphlib
from pathlib import Path

import faiss_qinco

ROOT = Path(faiss_qinco.__file__).parent


def imports(path: Path) -> set[Path]:
    """The package's modules that one imports, wherever in its text."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if not (isinstance(node, ast.ImportFrom) and node.level):
            continue
        module = path.parents[node.level - 1].joinpath(*(node.module or "").split("."))
        for name in node.names:
            for target in (module / name.name, module):  # a module, or something in one
                files = [target.with_suffix(".py"), target / "__init__.py"]
                if files := [file for file in files if file.exists()]:
                    found.add(files[0])
                    break
    return found


def test_the_import_graph_has_no_circle():
    graph = {path: imports(path) - {ROOT / "__init__.py"} for path in ROOT.rglob("*.py")}
    assert len(graph) > 30
    assert ROOT / "codec" / "codec.py" in graph[ROOT / "engine.py"]
    list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError


def test_rooms_come_one_after_the_other():
    rooms = ["storage", "interop", "codec", "training", "ranking"]
    for i, room in enumerate(rooms):
        for path in (ROOT / room).glob("*.py"):
            reached = {p.relative_to(ROOT).parts[0] for p in imports(path)}
            assert reached.isdisjoint(rooms[i + 1 :]), path
            assert reached.isdisjoint({"index", "engine.py", "index_file.py"}), path
