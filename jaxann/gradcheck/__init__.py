"""Which handwritten gradient is wrong, and how."""

from jaxann.gradcheck.report import Report, Row

__all__ = ["Report", "Row"]
