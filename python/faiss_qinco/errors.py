"""Errors that are Python's usual ones and, at the same time, what FAISS raises for the misuse."""

from __future__ import annotations


class ArgumentError(ValueError, AssertionError):
    """A value or shape that does not fit; FAISS raises AssertionError."""


class ArgumentTypeError(TypeError, AttributeError):
    """An argument of the wrong kind; FAISS raises TypeError or AttributeError."""


class MissingTorchError(ImportError, RuntimeError):
    """torch is missing, which training and GPUs need; FAISS raises RuntimeError where it cannot
    train."""


class FactoryError(ValueError, RuntimeError):
    """A factory string that is not understood; FAISS raises RuntimeError."""


class KindError(TypeError, RuntimeError):
    """An index of another kind than is asked for; FAISS raises RuntimeError."""
