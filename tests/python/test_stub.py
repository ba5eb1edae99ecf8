"""The stub of the extension says what its functions take. That nothing is missing in it is mypy's
stubtest's to see, which knows no parameters of pybind11's."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path

import faiss_qinco
from faiss_qinco import _core

STUB = Path(faiss_qinco.__file__).with_name("_core.pyi")


def functions(body: list[ast.stmt], owner: object) -> Iterator[tuple[ast.FunctionDef, object]]:
    for node in body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from functions(node.body, getattr(owner, node.name))
        elif isinstance(node, ast.FunctionDef):
            yield node, getattr(owner, node.name)


def parameters(function: ast.stmt) -> str:
    """Names and defaults, without types."""
    assert isinstance(function, ast.FunctionDef)
    for node in ast.walk(function.args):
        if isinstance(node, ast.arg):
            node.annotation = None
    return ast.unparse(function.args)


def test_parameters_and_defaults_are_those_of_the_extension():
    compared = set()
    for function, there in functions(ast.parse(STUB.read_text()).body, _core):
        signature = (inspect.getdoc(there) or "").partition("\n")[0]
        if not signature.startswith(f"{function.name}("):  # a property, or a class not to be made
            continue
        found = parameters(ast.parse(f"def {signature}: ...").body[0])
        assert parameters(function) == found, function.name
        compared.add(function.name)
    assert {"__init__", "search", "encode", "faiss", "assign"} <= compared and len(compared) > 40
