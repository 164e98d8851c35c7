"""People's tables on the command line: what is printed of their columns, and predictions from tables that differ."""

import json
import re
from io import StringIO

import numpy as np
import pandas as pd
import pytest
from support.churn import make_customers
from support.runs import BARE, QUICK, call_predict, call_train

import jaxann
from jaxann.cli.description import DataDescription

CUSTOMERS, NEW = make_customers(400), make_customers(50, seed=1).drop(columns="churn")


@pytest.fixture(scope="module")
def churn(tmp_path_factory):
    """The folder of a run on customers, and what it printed."""
    folder = tmp_path_factory.mktemp("churn")
    CUSTOMERS.to_csv(folder / "customers.csv", sep=";", index=False)
    arguments = ("--dataset", "customers.csv", "--id", "customer", "--ignore", "gender", "--run", "a")
    ended = call_train(folder, *QUICK, *BARE, *arguments)
    assert ended.code == 0, ended.sentence
    return folder, ended.out


def test_what_becomes_of_each_column_is_printed(churn):
    lines = churn[1].splitlines()
    assert [line.split() for line in lines[:5]] == [
        ["column", "read", "as", "features"],
        ["tenure", "numbers", "1"],
        ["charges", "numbers", "1"],
        ["total", *f"numbers, where missing {json_of(churn)['total']['fill']:g}".split(), "2"],
        ["contract", "3", "categories", "3"],
    ]
    assert "days since 1970" in lines[7]
    assert lines[8:12] == [
        "customer   left out, because it identifies examples",
        "gender     left out, because the settings ignore it",
        "target: churn (classes No, Yes)",
        "the cells of customers.csv are separated by semicolons",
    ]


def json_of(churn):
    content = json.loads((churn[0] / "a" / "data.json").read_text())
    return {column["name"]: column for column in content["encoding"]["columns"]}


def predict(folder, table, *arguments, **options):
    table.to_csv(folder / "in.csv", index=False, **options)
    ended = call_predict(folder, "a", "--input", "in.csv", *arguments)
    assert ended.code == 0, ended.sentence
    predictions = pd.read_csv(StringIO(ended.out), dtype=str)
    shares = [name for name in predictions if name.startswith("P(")]
    return predictions.assign(**{name: [float(cell) for cell in predictions[name]] for name in shares})


def test_a_table_of_another_form_has_the_same_predictions(churn):
    folder, _ = churn
    first = predict(folder, NEW)
    assert [*first] == ["customer", "churn", "P(No)", "P(Yes)"]
    assert first["customer"].tolist() == NEW["customer"].tolist()
    assert set(first["churn"]) == {"No", "Yes"}
    np.testing.assert_allclose(first["P(No)"] + first["P(Yes)"], 1)
    again = predict(folder, NEW[NEW.columns[::-1]].assign(more="x").drop(columns="gender"), sep=";", decimal=",")
    pd.testing.assert_frame_equal(again, first)
    assert [*predict(folder, NEW, "--id", "city", "tenure")] == ["city", "tenure", "churn", "P(No)", "P(Yes)"]
    run = jaxann.load(folder / "a")
    assert run.predict(NEW).tolist() == first["churn"].tolist()
    np.testing.assert_array_equal(run.predict_proba(NEW), first[["P(No)", "P(Yes)"]])


def test_missing_cells_are_imputed_and_new_categories_are_none(churn):
    folder, _ = churn
    new = NEW.assign(charges=None, city="Emden", paperless="?")
    medians = {name: column["fill"] for name, column in json_of(churn).items()}
    features = jaxann.load(folder / "a")._description.make_encoding().encode_new("new", new)
    names = [*jaxann.load(folder / "a").columns]
    np.testing.assert_array_equal(features[:, names.index("charges")], medians["charges"])
    assert not features[:, [i for i, name in enumerate(names) if name.startswith(("city=", "paperless="))]].any()
    assert len(predict(folder, new)) == len(new)


def test_predictions_may_be_written_as_parquet(churn):
    pytest.importorskip("pyarrow")
    folder, _ = churn
    table = predict(folder, NEW)
    assert call_predict(folder, "a", "--input", "in.csv", "--output", "out.parquet").code == 0
    pd.testing.assert_frame_equal(pd.read_parquet(folder / "out.parquet"), table, check_dtype=False)
    NEW.to_parquet(folder / "in.pq")  # known by its content
    assert call_predict(folder, "a", "--input", "in.pq").out == call_predict(folder, "a", "--input", "in.csv").out


def test_identifiers_are_carried_as_they_are(churn, tmp_path):
    pytest.importorskip("pyarrow")
    folder, _ = churn
    customers = [None, "007", *range(2, len(NEW))]
    expected = ["", "007", *map(str, range(2, len(NEW)))]
    NEW.assign(customer=customers).to_csv(folder / "in.csv", index=False)
    pytest.importorskip("openpyxl")
    NEW.assign(customer=customers).to_excel(folder / "in.xlsx", index=False)
    for name in ("in.csv", "in.xlsx"):
        ended = call_predict(folder, "a", "--input", name)
        assert [line.split(",")[0] for line in ended.out.splitlines()[1:]] == expected
        output = f"{name}.parquet"
        assert call_predict(folder, "a", "--input", name, "--output", output).code == 0
        assert pd.read_parquet(folder / output)["customer"].fillna("").tolist() == expected
    NEW.assign(customer=pd.array([None, *range(1, len(NEW))], "Int64")).to_parquet(folder / "in.parquet")
    assert call_predict(folder, "a", "--input", "in.parquet").out.splitlines()[1].startswith(",")


def test_what_a_reader_of_the_input_may_not_expect_is_told(churn):
    folder, _ = churn
    NEW.to_csv(folder / "in.csv", index=False, sep=";", decimal=",")
    ended = call_predict(folder, "a", "--input", "in.csv")
    assert ended.code == 0
    assert "the cells of in.csv are separated by semicolons" in ended.err
    assert "the commas in columns charges, total of in.csv are decimal commas" in ended.err


def test_columns_without_names_are_not_shifted(tmp_path):
    rows = [f"{'yn'[i % 2]},{i},{i % 3},same" for i in range(40)]
    (tmp_path / "t.csv").write_text("\n".join(rows))
    named = ("--dataset", "t.csv", "--header", "none", "--target", "column_1", "--run", "a")
    assert call_train(tmp_path, *QUICK, *BARE, *named).code == 0
    assert call_predict(tmp_path, "a", "--input", "t.csv").code == 0
    (tmp_path / "in.csv").write_text("\n".join(row[2:] for row in rows))
    ended = call_predict(tmp_path, "a", "--input", "in.csv")
    assert ended.sentence == "predict.py: expected 4 columns, which are matched by position, in in.csv, got 3"


def test_an_input_without_names_lacks_them(churn):
    folder, _ = churn
    NEW[["tenure", "charges", "total"]].to_csv(folder / "in.csv", index=False, header=False)
    ended = call_predict(folder, "a", "--input", "in.csv")
    assert re.search(r"expected the columns tenure, .* in in.csv, got a table that lacks tenure, ", ended.sentence)


@pytest.mark.parametrize(
    ("change", "arguments", "sentence"),
    [
        ({"tenure": "long"}, (), "expected a finite number in in.csv, row 1, column tenure, got 'long'"),
        ({"since": "May"}, (), "expected a date as YYYY-MM-DD in in.csv, row 1, column since, got 'May'"),
        ({}, ("--id", "name"), r"expected --id to be columns of in.csv \(customer, tenure, .*\), got 'name'"),
        ({}, ("--output", "out.xlsx"), "expected --output to end with .csv or .parquet, got out.xlsx"),
        ({"P(No)": 1}, ("--id", "P(No)"), r"expected --id to be columns of in.csv \(.*, gender\), got 'P\(No\)'"),
    ],
)
def test_a_table_that_does_not_fit_gets_a_sentence(churn, change, arguments, sentence):
    folder, _ = churn
    NEW.assign(**change).to_csv(folder / "in.csv", index=False)
    ended = call_predict(folder, "a", "--input", "in.csv", *arguments)
    assert (ended.code, ended.out) == (2, "")
    assert re.fullmatch(f"predict.py: {sentence}", ended.sentence), ended.sentence


def test_a_run_of_a_version_that_read_only_numbers_goes_on_and_predicts(tmp_path, monkeypatch):
    numbers = CUSTOMERS[["tenure", "charges", "churn"]]
    numbers.to_csv(tmp_path / "numbers.csv", index=False)
    from_task = DataDescription.from_task
    with monkeypatch.context() as patch:
        patch.setattr(DataDescription, "from_task", lambda task: from_task(task)._replace(encoding=None))
        named = ("--dataset", "numbers.csv", "--run", "a")
        assert call_train(tmp_path, *QUICK, *BARE, *named).code == 0
    assert "encoding" not in json.loads((tmp_path / "a" / "data.json").read_text())
    ended = call_train(tmp_path, "--resume", "a", "--epochs", 22)
    assert ended.code == 0, ended.sentence
    assert len(predict(tmp_path, numbers)) == len(numbers)
    ended = call_predict(tmp_path, "a", "--input", "numbers.csv", "--id", "tenure")
    assert ended.out.startswith("tenure,churn,P(No)")
