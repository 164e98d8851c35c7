"""Tables, splits, targets, batches, and what a run refuses."""

from jaxann.data.batches import Examples
from jaxann.data.splits import Dataset, load
from jaxann.data.targets import Targets

__all__ = ["Dataset", "Examples", "Targets", "load"]
