"""The API reference, of the docstrings: python python/docs/api.py FOLDER. Fails on any warning."""

from __future__ import annotations

import re
import sys
import warnings
from pathlib import Path

import pdoc

import faiss_qinco  # noqa: F401  # before faiss's warnings would be errors

MODULES = [
    "faiss_qinco", "faiss_qinco.errors", "faiss_qinco.index.views", "faiss_qinco.storage.vectors",
    "faiss_qinco.tools.evaluate", "faiss_qinco.tools.inspect", r"!faiss_qinco\.tools\.inspect\.",
    "faiss_qinco.training", r"!faiss_qinco\.training\.",
]  # fmt: skip


def to_markdown(docstring: str) -> str:
    """Our docstrings as Markdown: `name : text` is an item of a list, and < is no HTML."""
    text = re.sub(r"^(\w[\w.*, ]*) : ", r"- **\1** : ", docstring, flags=re.MULTILINE)
    parts = re.split(r"(`[^`]*`)", text)
    parts[::2] = [part.replace("<", "&lt;") for part in parts[::2]]
    return "".join(parts)


def own_members(cls: pdoc.doc.Class) -> list[pdoc.doc.Doc]:
    """What comes from a private base class as well, which has no place of its own; first."""
    ours = [m for m in cls.members.values() if m.taken_from[0].startswith("faiss_qinco")]
    return sorted(ours, key=lambda m: (m.name != "__init__", not m.is_inherited))


warnings.simplefilter("error")
pdoc.doc.Class.own_members = property(own_members)
pdoc.render.configure(docformat="markdown", show_source=False)
pdoc.render.env.filters["to_markdown"] = to_markdown
pdoc.pdoc(*MODULES, output_directory=Path(sys.argv[1]))
