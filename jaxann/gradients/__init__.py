"""Routes to a gradient, and what can be made of one."""

from jaxann.gradients import curvature, per_example
from jaxann.gradients.comparison import Comparison
from jaxann.gradients.stateful import Stateful

__all__ = ["Comparison", "Stateful", "curvature", "per_example"]
