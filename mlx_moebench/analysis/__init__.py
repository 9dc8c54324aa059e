"""The questions one can ask of a model's routers."""

from .analyze import analyze

__all__ = ["analyze"]
