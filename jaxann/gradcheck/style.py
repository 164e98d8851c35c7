"""How every picture looks. Pictures need matplotlib, which the extra `plots` installs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def make_figure(**settings: Any) -> Figure:
    """Returns an empty figure; raises ImportError, with how to install it, without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError("pictures need matplotlib: pip install 'jaxann[plots]'") from None
    return Figure(**settings)
