"""Kinds of columns, their encoding as features, and what scikit-learn's transformers make of the same table."""

import json
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import OneHotEncoder

from jaxann.data.column_settings import ColumnSettings
from jaxann.data.columns import choose_kinds, parse_columns
from jaxann.data.encoding import Encoding, fit_encoding, from_json, to_json
from jaxann.nn.hyperparameters import SettingError

N = 40
RNG = np.random.default_rng(0)
TEXTS = RNG.choice(["x", "y", "z"], N)


def decide(cells, name="a", **settings):
    """The kind of a column, or the reason why it is left out."""
    table = pd.DataFrame({name: cells, "other": np.arange(len(cells)) % 3})
    kinds, left_out = choose_kinds("t.csv", table, ColumnSettings(**settings))
    return kinds.get(name) or left_out[name]


@pytest.mark.parametrize(
    ("cells", "name", "kind"),
    [
        ([f"{i / 7:.3f}" for i in range(N)], "a", "number"),
        (["1", "", "NA", "2.5e3"], "a", "number"),
        (RNG.normal(size=N), "a", "number"),
        (TEXTS, "a", "category"),
        (["Yes", "No"] * 5, "a", "category"),
        ([True, False] * 5, "a", "category"),
        ([str(v) for v in [True, False] * 5], "a", "category"),
        (["x", "", "x", "?"], "a", "category"),
        (["x"] * N, "a", "it is the same everywhere"),
        ([f"customer {i}" for i in range(N)], "a", "its texts all differ"),
        ([f"customer {i}" for i in range(9)], "a", "category"),
        (["", "NA", "?"], "a", "it has no values"),
        ([np.nan] * 5, "a", "it has no values"),
        ([str(i) for i in range(N)], "ID", "its numbers identify the rows"),
        (np.arange(5, 5 + N), "Unnamed: 0", "its numbers identify the rows"),
        ([str(i) for i in range(N)], "mass", "number"),
        (["1", "3", "2"], "id", "number"),
        ([f"2024-01-{i + 1:02d}" for i in range(20)], "a", "date"),
        (["2024-01-05 10:30", "", "2024-01-05T10:30:01.5Z"], "a", "date"),
        (["2024/1/5", "2023/11/30 10:30"], "a", "date"),
        (pd.date_range("2024-01-01", periods=5), "a", "date"),
        (["2024-01-05", "", "0001-01-01", "9999-12-31", "2024-1-5"], "a", "date"),
        ([*["2024-01-05"] * 5, "soon"], "a", "date"),
        ([*["3.4.2024"] * 5, "soon"], "a", "its dates or times are not written as YYYY-MM-DD hh:mm:ss"),
        (["2024-01-05 10:30 PM"] * 5, "a", "its dates or times are not written as YYYY-MM-DD hh:mm:ss"),
        ([f"1.2.{i % 3}" for i in range(N)], "version", "category"),
        ([f"10.0.0.{i % 3}" for i in range(N)], "address", "category"),
        ([f"{i % 7:05d}" for i in range(N)], "zip", "category"),
        ([f"{i:05d}" for i in range(N)], "zip", "its texts all differ"),
        ([f"ticket {i // 2}" for i in range(1000)], "a", "all of its texts are rare"),
        (RNG.permutation(N), "Unnamed: 0", "its numbers identify the rows"),
        ([str(i * 37 % 101) for i in range(N)], "PassengerId", "its numbers identify the rows"),
        ([str(i * 37 % 101) for i in range(N)], "customer_id", "its numbers identify the rows"),
        ([str(i * 37 % 101) for i in range(N)], "paid", "number"),
        ([str(i % 9) for i in range(N)], "store_id", "number"),
        (["3.4.2024", "1.12.2023"], "a", "its dates or times are not written as YYYY-MM-DD hh:mm:ss"),
        (["10:30", "9:05"], "a", "its dates or times are not written as YYYY-MM-DD hh:mm:ss"),
    ],
)
def test_the_cells_decide_what_a_column_is(cells, name, kind):
    assert decide(cells, name) == kind


def test_a_user_may_decide_instead():
    assert decide(["1", "2"] * 5, categorical=("a",)) == "category"
    assert decide([f"customer {i}" for i in range(N)], categorical=("a",)) == "category"
    assert decide(TEXTS, ignore=("a",)) == "the settings ignore it"
    assert decide(TEXTS, id=("a",)) == "it identifies examples"
    assert decide(TEXTS, numeric=("a",)) == "number"
    with pytest.raises(SettingError, match=r"^expected ignore to be columns of features of t.csv \(a, other\), got"):
        decide(TEXTS, ignore=("b",))
    with pytest.raises(SettingError, match=r"^expected numeric to be no columns that id names as well, got 'a'$"):
        decide(TEXTS, id=("a",), numeric=("a",))


@pytest.mark.parametrize(
    ("cells", "kind", "sentence"),
    [
        (["1", "", "red"], "number", "a finite number in t.csv, row 3, column a, got 'red'"),
        (["1", "$13.13"], "number", "a finite number in t.csv, row 2, column a, got '$13.13'"),
        ([1.0, np.nan, np.inf], "number", "a finite number in t.csv, row 3, column a, got inf"),
        (["2024-01-01", "?", "2024-02-31"], "date", "a date as YYYY-MM-DD in t.csv, row 3, column a, got '2024-02-31'"),
    ],
)
def test_a_cell_of_another_kind_is_named(cells, kind, sentence):
    with pytest.raises(ValueError, match=r"^expected ") as caught:
        parse_columns("t.csv", pd.DataFrame({"a": cells}), {"a": kind})
    assert str(caught.value) == f"expected {sentence}"


def test_thousands_and_units_are_slips_and_no_categories():
    for cells in (
        *(["13,133", "1,200"], ["13_133", "1_200"], ["13.1%", "5%"], ["$13.13", "$ 9"]),
        *(["1.234,56", "12,5"], ["1 234", "1\xa0234 567"], ["-1,234.5", "€3."]),
    ):
        assert decide(cells * 6) == "number"  # so that the first of these cells is named


def draw(n, seed):
    rng = np.random.default_rng(seed)
    numbers = rng.normal(size=(n, 2))
    numbers[rng.random(n) < 0.2, 1] = np.nan
    city = rng.choice([*"ABCD"], n, p=[0.5, 0.3, 0.15, 0.05])
    return pd.DataFrame({"p": numbers[:, 0], "q": numbers[:, 1], "city": city, "sex": rng.choice(["f", "m", None], n)})


def test_the_encoding_is_that_of_scikit_learns_transformers():
    train, new = draw(300, 0), draw(50, 1)
    new.loc[3, "city"] = "E"  # which the training part lacks
    kinds, left_out = choose_kinds("t.csv", train, ColumnSettings())
    encoding = fit_encoding(parse_columns("t.csv", train, kinds), kinds, left_out)
    assert encoding.feature_names() == (
        *("p", "q", "q is missing"),
        *("city=A", "city=B", "city=C", "city=D", "sex=f", "sex=m"),
    )
    reference = make_column_transformer(
        (SimpleImputer(strategy="median", add_indicator=True), ["p", "q"]),
        (
            OneHotEncoder(categories=[sorted(set(train["city"]))], handle_unknown="ignore", sparse_output=False),
            ["city"],
        ),
        (OneHotEncoder(categories=[["f", "m"]], handle_unknown="ignore", sparse_output=False), ["sex"]),
    ).fit(train)
    for table in (train, new):
        actual = encoding.encode_new("t.csv", table[["sex", "q", "city", "p"]].assign(more=1))
        np.testing.assert_array_equal(actual, reference.transform(table))
    assert encoding.is_number().tolist() == [True, True] + [False] * 7


def test_rare_categories_share_a_feature():
    train = pd.DataFrame({"a": ["x"] * 500 + ["y"] * 490 + ["u"] * 6 + ["v"] * 4})
    encoding = fit_encoding(train, {"a": "category"}, {})
    assert encoding.feature_names() == ("a=x", "a=y", "a=(rare)")
    cells = pd.DataFrame({"a": ["v", "y", "w", ""]})
    np.testing.assert_array_equal(encoding.encode_new("t", cells), [[0, 0, 1], [0, 1, 0], [0, 0, 0], [0, 0, 0]])


def test_many_categories_have_few_features():
    train = pd.DataFrame({"a": np.repeat([f"c{i:03d}" for i in range(80)], 20)})
    assert len(fit_encoding(train, {"a": "category"}, {}).feature_names()) == 51


def test_dates_are_days_since_1970():
    cells = pd.DataFrame({"a": ["1970-01-03", "1969/12/31 12:00", "?", "1970-01-01T00:00+12:00"]})
    np.testing.assert_array_equal(parse_columns("t", cells, {"a": "date"})["a"], [2, -0.5, np.nan, -0.5])


def test_json_keeps_an_encoding():
    train = draw(300, 0)
    kinds, _ = choose_kinds("t.csv", train, ColumnSettings())
    encoding = fit_encoding(parse_columns("t.csv", train, kinds), kinds, {"name": "its texts all differ"}, ("name",))
    assert from_json(json.loads(json.dumps(to_json(encoding)))) == encoding
    content = to_json(encoding)
    for change in (
        {"columns": 3},
        {"left_out": []},
        {"columns": [content["columns"][0] | {"kind": "colour"}]},
        {"columns": [content["columns"][0] | {"fill": float("nan")}]},
        {"columns": [content["columns"][0] | {"more": 1}]},
    ):
        with pytest.raises(ValueError, match=r"^expected the encoding of columns, got "):
            from_json(content | change)


def test_a_table_without_a_column_is_refused():
    encoding = fit_encoding(pd.DataFrame({"a": [1.0], "b": [2.0]}), {"a": "number", "b": "number"}, {})
    with pytest.raises(ValueError, match=r"^expected the columns a, b in new.csv, got a table that lacks b$"):
        encoding.encode_new("new.csv", pd.DataFrame({"a": [1], "c": [2]}))
    assert Encoding().feature_names() == ()


def test_spellings_of_the_same_category_are_one():
    spellings = {"True": ["TRUE", "true", True], "1": ["1.0", 1, 1.0, "1."], "1234567": [1234567.0], "01": ["01"]}
    for name, values in spellings.items():
        for value in values:
            cells = parse_columns("t", pd.DataFrame({"a": [value, None]}), {"a": "category"})["a"]
            assert cells.fillna("missing").tolist() == [name, "missing"]
    cells = pd.DataFrame({"a": pd.Series([True, 1], dtype=object)})
    assert parse_columns("t", cells, {"a": "category"})["a"].tolist() == ["True", "1"]


def test_cells_of_any_dtype_are_numbers_dates_and_categories():
    frame = pd.DataFrame({"p": [1.5, 2.5], "q": ["2024-01-01", "2024-01-02"], "r": ["x", "y"]})
    kinds = {"p": "number", "q": "date", "r": "category"}
    expected = parse_columns("t", frame, kinds)
    dates = pd.to_datetime(frame["q"])
    for changed in (
        frame.astype("category"),
        frame.astype(object),
        frame.convert_dtypes(),
        frame.assign(p=[Decimal("1.5"), Decimal("2.5")], q=dates.dt.tz_localize("UTC")),
        frame.assign(q=dates.dt.date),
        frame.assign(q=[20240101, 20240102]),
    ):
        pd.testing.assert_frame_equal(parse_columns("t", changed, kinds), expected)
    for kind, cells, sentence in (
        ("number", dates, "a finite number in t, row 1, column a, got '2024-01-01 00:00:00'"),
        ("date", [True], "a date as YYYY-MM-DD in t, row 1, column a, got 'True'"),
        ("number", pd.to_timedelta([1], "D"), "a finite number in t, row 1, column a, got '1 days 00:00:00'"),
    ):
        with pytest.raises(ValueError, match=f"^expected {sentence}$"):
            parse_columns("t", pd.DataFrame({"a": cells}), {"a": kind})
    assert parse_columns("t", pd.DataFrame({"a": [True, False]}), {"a": "number"})["a"].tolist() == [1, 0]


def test_far_dates_have_days():
    cells = pd.DataFrame({"a": ["0001-01-01", "9999-12-31", "2024-1-5 9:30"]})
    assert parse_columns("t", cells, {"a": "date"})["a"].tolist() == [-719162, 2932896, 19727 + 9.5 / 24]
