"""Files of tables as frames: separators, encodings, compression, headers, and the sentence for what cannot be read."""

import bz2
import gzip
import lzma
import sys
import zipfile

import numpy as np
import pandas as pd
import pytest

from jaxann.data.frames import MISSING, is_missing, read_frame
from jaxann.nn.hyperparameters import SettingError

TABLE = "größe,pH,kind\n1.5,2,ja\n3,,nein\n"
EXPECTED = {"größe": ["1.5", "3"], "pH": ["2", ""], "kind": ["ja", "nein"]}


@pytest.fixture
def path(tmp_path):
    def write(content, name="table.csv"):
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(tmp_path / name)

    return write


def read(path, **settings):
    frame = read_frame(path, **settings)
    return frame.table.to_dict("list"), [note.replace(path, "FILE") for note in frame.notes]


@pytest.mark.parametrize(("separator", "name"), [(";", "semicolons"), ("\t", "tabs"), ("|", "vertical bars")])
def test_the_separator_is_found_and_told(path, separator, name):
    table, notes = read(path(TABLE.replace(",", separator), "table.txt"))
    assert table == EXPECTED
    assert notes == [f"the cells of FILE are separated by {name}"]


def test_commas_are_decimal_where_something_else_separates_the_cells(path):
    table, notes = read(path('a;b;c;d\n1,5;x, y;1,5;?\n-2,25e3;"3,5";z;4,0\n3;u;1;NA\n'))
    assert table == {
        "a": ["1.5", "-2.25e3", "3"],
        "b": ["x, y", "3,5", "u"],
        "c": ["1,5", "z", "1"],
        "d": ["?", "4.0", "NA"],
    }
    assert notes[1:] == ["the commas in column 'a' of FILE are decimal commas"]
    assert read(path('a,b\n"13,133",x\n"1,2",y\n'))[0]["a"] == ["13,133", "1,2"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_the_encoding_is_found(path, encoding):
    table, notes = read(path(TABLE.encode(encoding)))
    assert table == EXPECTED
    assert notes == ["FILE is not in UTF-8; it was read as Windows-1252"] * (encoding == "cp1252")


@pytest.mark.parametrize("end", ["\r\n", "\r"])
def test_lines_end_as_on_any_machine_and_cells_may_hold_line_ends(path, end):
    text = f'{TABLE}7,8,"two\nlines"\n'.replace("\n", end)
    table, _ = read(path(text))
    assert table["kind"] == ["ja", "nein", f"two{end}lines"]


def zipped(data):
    from io import BytesIO

    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("inner.csv", data)
    return buffer.getvalue()


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress, zipped])
def test_compressed_files_are_known_by_their_content(path, compress):
    data = compress(TABLE.encode())
    assert read(path(data, "table.csv.gz")) == read(path(data)) == (EXPECTED, [])
    with pytest.raises(ValueError, match=r"table.csv cannot be (decompressed|read as a zip file): "):
        read_frame(path(data[: len(data) // 2]))


@pytest.mark.parametrize(("ending", "package"), [("xlsx", "openpyxl"), ("parquet", "pyarrow")])
def test_excel_and_parquet_keep_their_types(tmp_path, path, monkeypatch, ending, package):
    frame, file = pd.DataFrame({"a ": [1.5, np.nan], "b": [True, False], "c": ["x", None]}), tmp_path / f"t.{ending}"
    monkeypatch.setitem(sys.modules, package, None)
    damaged = path(b"PK\3\4xl/workbook.xml" if ending == "xlsx" else b"PAR1", f"damaged.{ending}")
    if ending == "parquet":
        with pytest.raises(ImportError, match=r"^a Parquet file needs pyarrow: pip install 'jaxann\[tables\]'$"):
            read_frame(damaged)
    monkeypatch.undo()
    pytest.importorskip(package)
    frame.to_excel(file, index=False) if ending == "xlsx" else frame.to_parquet(file)
    table = read_frame(str(file)).table
    assert [*table] == ["a", "b", "c"]
    assert table["b"].dtype == bool
    np.testing.assert_array_equal(table["a"], [1.5, np.nan])
    with pytest.raises(ValueError, match=rf"damaged.{ending} cannot be read as a "):
        read_frame(damaged)


def test_comments_above_the_names_are_left_out(path):
    assert read(path(f"# measured in May\n#, in mg\n{TABLE}")) == (EXPECTED, [])
    assert [*read(path("#id,a,b\n1,2,3\n"))[0]] == ["#id", "a", "b"]
    assert read(path("a,b\nx,#1\n#2,y\n"))[0] == {"a": ["x", "#2"], "b": ["#1", "y"]}


def test_a_line_that_may_be_an_example_is_asked_about(path):
    text = "5.1,3.5,setosa\n4.9,3,virginica\n"
    sentence = r"^expected header to be none or first for .*table.csv, whose first line holds an example or unusual "
    with pytest.raises(SettingError, match=rf"{sentence}names \(5.1, 3.5, setosa\), got None$"):
        read_frame(path(text))
    table, _ = read(path(text), header="none")
    assert table == {"column_1": ["5.1", "4.9"], "column_2": ["3.5", "3"], "column_3": ["setosa", "virginica"]}
    assert [*read(path(text), header="first")[0]] == ["5.1", "3.5", "setosa"]
    assert [*read(path("name,b,2019\nx,2,3\n"))[0]] == ["name", "b", "2019"]


def test_separators_at_the_end_of_all_lines_and_an_index_of_pandas_are_no_columns_to_name(path):
    table, notes = read(path("a,b,\n1,2,\n3,4,\n"))
    assert table == {"a": ["1", "3"], "b": ["2", "4"]}
    assert notes == ["the last column of FILE, which has no name and no values, is left out"]
    assert [*read(path(",a\n0,5\n1,6\n"))[0]] == ["Unnamed: 0", "a"]


def test_missing_cells_are_known_in_any_spelling():
    cells = pd.Series([*MISSING, "N/A", "NaN", " ? ", None, np.nan, "0", "no", "nano"], dtype=object)
    assert is_missing(cells).tolist() == [True] * (len(cells) - 3) + [False] * 3
    assert is_missing(pd.Series([1, np.nan, 0])).tolist() == [False, True, False]
