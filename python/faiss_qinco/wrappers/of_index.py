"""What an index passes on of the one inside, and what it passes for."""

from __future__ import annotations

from typing import Any


class OfIndex:
    """An attribute of the index inside, to be read and set here as well."""

    def __init__(self, inside: str = "index") -> None:
        """inside: the attribute that is the index inside."""
        self.inside = inside

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, outer: Any, owner: type | None = None) -> Any:
        return self if outer is None else getattr(getattr(outer, self.inside), self.name)

    def __set__(self, outer: Any, value: Any) -> None:
        setattr(getattr(outer, self.inside), self.name, value)


def _stood_for(index: Any) -> Any:
    return type(index)._stands_for or type(index)


# `__class__`: what `isinstance` takes an index for besides its own class. `register` has it be one
# of faiss's. (No base class has it, for the sake of objects of faiss's that become ours.)
stood_for: Any = property(_stood_for)
