"""The report as a table, as JSON, as an exception and in a notebook."""

import json
from html.parser import HTMLParser

import jax
import numpy as np
import pytest
from support.layers import WrongLayer

from jaxann import check, compare
from jaxann.gradcheck import Report, Row
from jaxann.nn import Dense, Sequential, SquaredError, tanh


def flip_bias(p, s, dy, g, dx):
    return {"W": g["W"], "b": -g["b"]}, dx


MODEL = Sequential((Dense(4, 5), tanh, WrongLayer(Dense(5, 3), flip_bias)))
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def report():
    x, t = RNG.normal(size=(9, 4)), RNG.normal(size=(9, 3))
    return check(MODEL, SquaredError(), MODEL.init(jax.random.key(0)), x, t, examples=6, on_purpose=["0.W"])


def test_the_table_says_what_is_wrong(report):
    lines = str(report).splitlines()
    assert lines[0].split() == ["gradient", "owner", "shape", "float32", "float64", "differences", "verdict"]
    (wrong,) = (line for line in lines if line.startswith("2.b "))
    assert wrong.split() == ["2.b", "WrongLayer", "3", "2.0e+00", "2.0e+00", "2.0e+00", "(6", "of", "6)", "WRONG"]
    assert "2.b: consistent with a flipped sign" in lines
    assert lines[-1] == f"1 of {len(report.rows)} gradients is wrong, checked on 6 of 9 examples"
    assert len({line.index("right") for line in lines if line.endswith(" right")}) == 1, "columns are aligned"


def test_a_right_composite_layer_takes_one_line(report):
    lines = [line.split()[0] for line in str(report).splitlines()]
    assert "chain.*" in lines
    assert "gradient.*" in lines
    assert not [line for line in lines if line.startswith(("chain.0", "gradient.weighted"))]


def test_a_report_of_right_gradients_says_so():
    right = Report((Row("0.W", "Dense(4, 5)", (5, 4), "right"),), 1, 1)
    assert right.ok
    assert str(right).splitlines()[-1] == "the gradient is right, checked on 1 of 1 examples"
    right.raise_if_wrong()


def test_a_report_with_a_wrong_gradient_raises(report):
    assert not report.ok
    assert report.wrong == ("2.b",)
    with pytest.raises(AssertionError, match=r"2\.b: consistent with a flipped sign"):
        report.raise_if_wrong()


def test_rows_are_found_by_path(report):
    assert report["2.b"].cause == "sign"
    with pytest.raises(KeyError, match=r"expected the path of a gradient \(0\.W, 0\.b, .*\), got '2'"):
        report["2"]


def test_json_holds_all_but_the_arrays(report):
    read = json.loads(report.to_json())
    assert read == json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert (read["ok"], read["wrong"], read["examples"], read["total"]) == (False, ["2.b"], 6, 9)
    rows = {row["path"]: row for row in read["rows"]}
    assert rows["2.b"]["float64"] == pytest.approx(2)
    assert rows["2.b"]["diagnosis"] == "consistent with a flipped sign"
    assert rows["gradient.weighted.value"]["float32"] is None, "not measured"
    assert not {"handwritten", "autodiff"} & set(rows["2.b"])


# In a notebook.


class TableParser(HTMLParser):
    """Collects the rows of an HTML table as texts, the attributes of rows and cells, and the paragraphs below it."""

    def __init__(self, html):
        super().__init__()
        self.rows, self.styles, self.spans, self.paragraphs, self.open, self.bold = [], [], [], [], [], []
        self.feed(html)
        self.close()
        assert not self.open, "every tag is closed"

    def handle_starttag(self, tag, attributes):
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
            self.styles.append(dict(attributes)["style"])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.spans.append(int(dict(attributes).get("colspan", 1)))
        if tag == "p":
            self.paragraphs.append("")
        if tag == "strong":
            self.bold.append(len(self.rows) - 1)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += text
        elif "p" in self.open:
            self.paragraphs[-1] += text


def test_a_notebook_shows_the_diagnosis_beneath_each_wrong_row(report):
    html = report._repr_html_()
    table, lines = TableParser(html), str(report).splitlines()
    gradients = [row for row in table.rows if len(row) > 1]
    assert [row.split() for row in map(" ".join, gradients)] == [line.split() for line in lines[: len(gradients)]]
    diagnosed = {row.path: row.diagnosis for row in report.rows if row.diagnosis}
    assert set(diagnosed) >= {"2.b"}
    for path, diagnosis in diagnosed.items():
        (position,) = (i for i, row in enumerate(table.rows) if row[0] == path)
        assert table.rows[position + 1] == [diagnosis]
    assert len(table.rows) == len(gradients) + len(diagnosed)
    assert table.paragraphs == [*report.notes, lines[-1]]
    assert [text for text in table.rows if "WRONG" in text] == [table.rows[table.bold[0]]]
    assert "color: black" not in html
    assert html.count("#D55E00") == 2, "the wrong row and its diagnosis are marked, and no other"


def test_a_name_in_a_notebook_is_text():
    rows = (
        Row("0.dx", "<b>$x$ & \x1b", (3,), "wrong", diagnosis="<script>alert(1)</script>"),
        Row("1", "b", (), "right"),
    )
    html = Report(rows, 1, 1, ("a note on <i>",))._repr_html_()
    assert "<b>" not in html
    assert "<script>" not in html
    assert '<div class="tex2jax_ignore mathjax_ignore">' in html, "dollar signs begin no formula"
    table = TableParser(html)
    assert table.rows[1][:2] == ["0.dx", "<b>$x$ & \\x1b"]
    assert table.rows[2] == ["<script>alert(1)</script>"]
    assert table.paragraphs[0] == "a note on <i>"


def test_a_comparison_in_a_notebook_has_the_cells_of_its_text():
    comparison = compare({"W": np.eye(2), "b": np.ones(2)}, {"W": 2 * np.eye(2), "b": np.ones(2)})
    table = TableParser(comparison._repr_html_())
    assert [row.split() for row in map(" ".join, table.rows)] == [line.split() for line in str(comparison).splitlines()]
    assert table.paragraphs == []
