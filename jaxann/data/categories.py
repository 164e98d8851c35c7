"""The categories of a column: how they are spelled, and which of them are frequent."""

from __future__ import annotations

import re
from collections import Counter

RARE = 0.01  # share of the examples below which a category is rare
MOST_CATEGORIES = 50  # the most frequent categories of a column, each of which has a feature of its own


def normalize_category(text: str) -> str:
    """Returns the same text for what programs write of the same value: 1 and 1.0, or True, TRUE and true."""
    if text.lower() in ("true", "false"):
        return text.capitalize()
    return text.partition(".")[0] if re.fullmatch(r"[+-]?\d+\.0*", text) else text


def find_frequent(counts: Counter[str], examples: int) -> list[str]:
    """Returns the categories that are frequent enough for a feature of their own, the most frequent one first.

    Args:
        counts: How many examples each category has.
        examples: The number of all examples.
    """
    return [text for text, count in counts.most_common(MOST_CATEGORIES) if count >= max(2, RARE * examples)]
