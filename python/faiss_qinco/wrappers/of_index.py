"""What an index passes on of the one inside."""

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
