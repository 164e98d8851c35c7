"""Files of tables as frames: separators, encodings, compression, headers, and the sentence for what cannot be read."""

import bz2
import gzip
import lzma
import sys
import zipfile
from datetime import date, time
from decimal import Decimal
from io import BytesIO

import numpy as np
import pandas as pd
import pytest

from jaxann.data.frames import MISSING, get_cells, is_missing, read_frame, to_frame, to_texts
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
    assert notes[1:] == ["the commas in columns a, d of FILE are decimal commas"]
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
    assert notes == ["columns of FILE that have neither a name nor values are left out: 1"]
    assert [*read(path(",a\n0,5\n1,6\n"))[0]] == ["Unnamed: 0", "a"]


def test_missing_cells_are_known_in_any_spelling():
    cells = pd.Series([*MISSING, "N/A", "NaN", " ? ", None, np.nan, "0", "no", "nano"], dtype=object)
    assert is_missing(to_texts(cells)).tolist() == [True] * (len(cells) - 3) + [False] * 3
    assert is_missing(pd.Series([1, np.nan, 0])).tolist() == [False, True, False]


def test_of_two_separators_that_split_all_lines_a_comma_is_the_decimal_comma(path):
    table, notes = read(path("1,5;2,5\n3,5;4,5\n"), header="none")
    assert table == {"column_1": ["1.5", "3.5"], "column_2": ["2.5", "4.5"]}
    assert notes[1] == "the commas in columns column_1, column_2 of FILE are decimal commas"


@pytest.mark.parametrize("title", ["Sales in May\n\n", "Sales in May,,\n", "Sales in May\n,,\n"])
def test_a_title_above_the_names_is_left_out(path, title):
    table, notes = read(path(f"{title}{TABLE}".replace(",", ";")))
    assert table == EXPECTED
    assert notes[1:] == ["a title above the column names of FILE is left out: Sales in May"]
    assert read(path("sep=;\na;b\n1;2\n"))[0] == {"a": ["1"], "b": ["2"]}
    assert read(path(",a\n0,5\n1,6\n")) == ({"Unnamed: 0": ["0", "1"], "a": ["5", "6"]}, [])


def test_an_example_of_numbers_and_texts_is_no_line_of_names(path):
    adult = "39, State-gov, Bachelors, Male, <=50K\n50, Private, HS-grad, Male, >50K\n38, State-gov, PhD, Male, >50K\n"
    for text in (adult, "p,x,s,n,p\ne,x,y,n,s\np,b,s,w,p\n"):
        with pytest.raises(SettingError, match=r"^expected header to be none or first for "):
            read_frame(path(text))
    assert [*read(path("a,b,y\n1,2,y\n3,4,n\n"))[0]] == ["a", "b", "y"]
    assert len(read(path(f"{TABLE}{TABLE}"))[0]["kind"]) == 5  # joined files, whose line of names then is no number


def test_a_zip_file_of_macos_and_text_with_lost_characters_are_read(path):
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, data in {"d/": "", "d/t.csv": TABLE, "__MACOSX/d/._t.csv": "\0"}.items():
            file.writestr(name, data)
    assert read(path(buffer.getvalue(), "t.zip"))[0] == EXPECTED
    assert read(path("a,b\ncaf\ufffd,x\n"))[0]["a"] == ["caf\ufffd"]


def test_a_zip_file_of_an_unknown_version_gets_a_sentence(path):
    data = bytearray(zipped(TABLE))
    data[data.index(b"PK\1\2") + 6] = 99  # the version that is needed to extract the file
    with pytest.raises(ValueError, match=r"t.zip cannot be read as a zip file: zip file version 9.9"):
        read_frame(path(bytes(data), "t.zip"))


def test_a_quote_that_is_not_closed_is_found_by_its_line(path):
    with pytest.raises(ValueError, match=r"table.csv, line 4, cannot be read as cells separated by commas: "):
        read_frame(path('# May\na,b\n1,x\n2,"5" pipe"\n'))


def test_an_old_excel_file_gets_a_sentence(path):
    with pytest.raises(
        ValueError, match=r"^expected text, Excel \(.xlsx\) .* or Parquet in .*t.xls, got a file of Excel 2003"
    ):
        read_frame(path(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), "t.xls"))


def test_a_sheet_of_excel_is_named_as_a_text_file_is(tmp_path):
    openpyxl = pytest.importorskip("openpyxl")

    def save(*rows, sheets=1):
        book = openpyxl.Workbook()
        for row in rows:
            book.active.append(row)
        for i in range(1, sheets):
            book.create_sheet(f"old {i}")
        book.save(tmp_path / "t.xlsx")
        return str(tmp_path / "t.xlsx")

    rows = [[None, "id", "b ", "y"], [None, "007", 1.5, True], [], [None, "NA", None, False]]
    path = save(["Report"], [], *rows, sheets=3)
    table, notes = read_frame(path)
    assert table["id"].tolist() == ["007", "NA"]
    np.testing.assert_array_equal(table["b"], [1.5, np.nan])
    assert table["y"].dtype == bool
    assert [note.replace(path, "FILE") for note in notes] == [
        "the first of 3 sheets of FILE is read: Sheet",
        "a title above the column names of FILE is left out: Report",
        "columns of FILE that have neither a name nor values are left out: 1",
    ]
    with pytest.raises(SettingError, match=r"^expected header to be none or first for .* names \(1, 2, x\), got None$"):
        read_frame(save([1, 2, "x"], [3, 4, "y"]))
    assert [*read_frame(save([1, 2, "x"], [3, 4, "y"]), "none").table] == ["column_1", "column_2", "column_3"]
    with pytest.raises(ValueError, match=r"got the name 'a' for 2 of them$"):
        read_frame(save(["a", "a", "y"], [1, 2, 3]))


def test_parquet_is_known_by_its_content_and_has_an_index_and_names(tmp_path):
    pytest.importorskip("pyarrow")
    path = str(tmp_path / "t.pq")
    pd.DataFrame({"a": [1, 2], "b": [3, 4]}).set_index("a").to_parquet(path)
    for header in (None, "first"):
        assert read_frame(path, header).table.to_dict("list") == {"a": [1, 2], "b": [3, 4]}
    with pytest.raises(
        SettingError, match=r"^expected header to be first for .*t.pq, whose columns have names, got 'none'"
    ):
        read_frame(path, "none")


def test_an_index_with_a_name_is_a_column():
    frame = pd.DataFrame({"a": [1, 2], "b": [3, 4], "c": [5, 6]})
    for named in (frame.set_index("a"), frame.set_index(["a", "b"]), frame.set_index("c", drop=False)):
        pd.testing.assert_frame_equal(to_frame(named)[["a", "b", "c"]], frame)


def test_cells_of_any_dtype_are_text_or_typed():
    values = [Decimal("1.5"), date(2024, 1, 2), time(3, 4), [1, 2], " x ", None, np.nan, pd.NaT]
    table = pd.DataFrame({"object": pd.Series(values, dtype=object), "category": pd.Categorical([*"xyxyxyx", None])})
    assert get_cells(table, "object").tolist() == ["1.5", "2024-01-02", "03:04:00", "[1, 2]", "x", None, None, None]
    assert get_cells(table, "category").tolist() == [*"xyxyxyx", None]
