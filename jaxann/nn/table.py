"""Tables, as text that reports and programs print, and as HTML that a notebook shows."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from html import escape
from types import MappingProxyType

from jaxann.nn.text import make_printable

_NOTHING: Mapping[int, str] = MappingProxyType({})
# No color of text or page is set, so that a dark notebook keeps its own: the mark is a bar and a translucent tint.
_MARK = "border-left: 4px solid #D55E00; background-color: rgba(213, 94, 0, 0.15)"
_BAR = "border-left: 4px solid transparent"


def format_table(rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> str:
    """Aligns the cells of a table in columns.

    Args:
        rows: The cells of each row; all rows have equally many, and the first one is usually the header.
        right: The indices of the columns that are aligned to the right.

    Returns:
        The table, a line for each row, with two spaces between columns and no trailing spaces.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def format_html_table(
    rows: Sequence[Sequence[str]],
    right: Collection[int] = (),
    *,
    sentences: Mapping[int, str] = _NOTHING,
    marked: Collection[int] = (),
    paragraphs: Sequence[str] = (),
) -> str:
    """Returns a table as HTML, for a notebook with a bright or a dark background.

    Args:
        rows: The cells of each row, as `format_table` takes them; the first row is the header.
        right: The indices of the columns that are aligned to the right.
        sentences: Sentences by the index of the row beneath which each of them stands, in a row of its own.
        marked: The indices of the rows that are marked by a colored bar and bold text.
        paragraphs: The paragraphs below the table.

    Returns:
        The table and the paragraphs, in which markup, control characters and dollar signs of the cells have no effect.
    """
    header, *body = rows
    lines = []
    for index, row in enumerate(body, start=1):
        style = _MARK if index in marked else _BAR
        lines.append(_format_html_row(row, "td", right, style, bold=index in marked))
        if index in sentences:
            cell = f'<td colspan="{len(header)}" style="text-align: left">{_escape(sentences[index])}</td>'
            lines.append(f'<tr style="{style}">{cell}</tr>')
    head = _format_html_row(header, "th", right, _BAR)
    table = ["<thead>", head, "</thead>", "<tbody>", *lines, "</tbody>"]
    return "\n".join(
        [
            # MathJax would read the text between two dollar signs as a formula, unless a class tells it not to.
            '<div class="tex2jax_ignore mathjax_ignore">',
            '<table style="border-collapse: collapse">',
            *table,
            "</table>",
            *(f"<p>{_escape(paragraph)}</p>" for paragraph in paragraphs),
            "</div>",
        ]
    )


def _format_html_row(cells: Sequence[str], tag: str, right: Collection[int], style: str, bold: bool = False) -> str:
    parts = []
    for column, cell in enumerate(cells):
        text = f"<strong>{_escape(cell)}</strong>" if bold else _escape(cell)
        parts.append(f'<{tag} style="text-align: {"right" if column in right else "left"}">{text}</{tag}>')
    return f'<tr style="{style}">{"".join(parts)}</tr>'


def _escape(text: str) -> str:
    return escape(make_printable(text))
