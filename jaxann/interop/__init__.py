"""The handwritten backward in other people's code."""

__all__ = []
