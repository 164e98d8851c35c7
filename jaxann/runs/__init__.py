"""The folder of a run: checkpoints, metrics, pictures."""

__all__ = []
