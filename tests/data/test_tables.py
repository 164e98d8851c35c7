"""Tables as their sources hold them, and the sentence that each kind of damage gets."""

import gzip
import hashlib
import inspect
import json
import os
import struct
import zipfile
from decimal import Decimal
from email.message import Message
from urllib.error import HTTPError, URLError

import numpy as np
import pandas as pd
import pytest
import sklearn.datasets
from sklearn.datasets import _openml

from jaxann.data import openml as openml_reader
from jaxann.data.column_settings import ColumnSettings
from jaxann.data.tables import SETS, read_features, read_table
from jaxann.nn.hyperparameters import SettingError

FLOWERS = "length,width,species\n1,2,b\n3,4,a\n5,6.5,b\n"


@pytest.fixture
def table(tmp_path):
    def write(text, name="table.csv", encoding="utf-8"):
        (tmp_path / name).write_bytes(text.encode(encoding))
        return str(tmp_path / name)

    return write


@pytest.fixture
def npz(tmp_path):
    def save(**arrays):
        np.savez(tmp_path / "table.npz", **arrays)
        return str(tmp_path / "table.npz")

    return save


def idx(array, magic=None, sizes=None):
    array = np.asarray(array, np.uint8)
    head = struct.pack(f">{1 + array.ndim}I", magic or 0x800 + array.ndim, *(sizes or array.shape))
    return head + array.tobytes()


IMAGES = np.arange(5 * 2 * 3).reshape(5, 2, 3)
MNIST = {
    "train-images-idx3-ubyte": idx(IMAGES),
    "train-labels-idx1-ubyte": idx([0, 3, 1, 3, 1]),
    "t10k-images-idx3-ubyte": idx(IMAGES[:2] + 100),
    "t10k-labels-idx1-ubyte": idx([3, 1]),
}


@pytest.fixture
def folder(tmp_path):
    def fill(files=MNIST, **changed):
        for name, data in {**files, **{key.replace("_", "-"): value for key, value in changed.items()}}.items():
            if data is not None:
                (tmp_path / name).write_bytes(data)
        return str(tmp_path)

    return fill


@pytest.mark.parametrize("name", SETS)
def test_scikit_learns_tables_are_read_unchanged(name):
    table, original = read_table(name), getattr(sklearn.datasets, f"load_{name}")()
    np.testing.assert_array_equal(table.x, original.data)
    np.testing.assert_array_equal(table.t, original.target)
    assert table.t.dtype == (float if name == "diabetes" else np.int64)
    assert table.columns == tuple(original.feature_names)
    assert table.classes == (() if name == "diabetes" else tuple(map(str, original.target_names)))
    assert (table.target, table.weights, table.test) == ("target", None, None)


def test_an_unknown_source_is_refused_with_the_known_ones(tmp_path, table):
    names = "iris, wine, breast_cancer, digits, diabetes, mnist1d, mnist_784, Fashion-MNIST, CIFAR_10, openml:NAME"
    kinds = "a file with named columns such as a .csv file, an .npz file or a folder of IDX files"
    for source in ("mnist", ""):
        with pytest.raises(ValueError, match=f"^expected a dataset, which is one of {names}, {kinds}, got '{source}'$"):
            read_table(source)
    for name in ("none.csv", "none.npz", "none"):
        with pytest.raises(ValueError, match=rf"^no such file: .*{name}$"):
            read_table(str(tmp_path / name))


def test_an_unknown_kind_is_refused():
    with pytest.raises(SettingError, match=r"^expected kind to be classes, numbers or None, got 'labels'$"):
        inspect.unwrap(read_table)("iris", kind="labels")


@pytest.mark.parametrize("settings", [{"target": "y"}, {"weights": "y"}, {"columns": ColumnSettings(id=("y",))}])
def test_only_a_file_with_named_columns_has_columns_to_name(settings, npz, folder):
    (option,) = settings
    option = "id" if option == "columns" else option
    for source in ("iris", "mnist_784", npz(x=np.ones((2, 2)), t=[0, 1]), folder()):
        sentence = f"^expected {option} to be left out for .*, which has no named columns, got .*'y'"
        with pytest.raises(SettingError, match=sentence):
            read_table(source, **settings)


def test_a_csv_is_features_and_a_last_column_of_targets(table):
    result = read_table(table(FLOWERS))
    np.testing.assert_array_equal(result.x.to_numpy(), np.array([[1, 2], [3, 4], [5, 6.5]]), strict=True)
    np.testing.assert_array_equal(result.t, np.array([1, 0, 1]), strict=True)
    kinds = {"length": "number", "width": "number"}
    assert result[2:] == (("a", "b"), ("length", "width"), "species", None, None, kinds, {}, (), ())


def test_a_csv_may_be_quoted_marked_and_spaced(table):
    text = '"the length, in cm", width ,species\r\n\r\n"1",2,"b, or ""c"""\r\n   \r\n3, 4 , a\r\n5,6.5,Ähre\r\n\r\n'
    for encoding in ("utf-8", "utf-8-sig"):
        result = read_table(table(text, encoding=encoding))
        np.testing.assert_array_equal(result.x, [[1, 2], [3, 4], [5, 6.5]])
        assert result.columns == ("the length, in cm", "width")
        assert [result.classes[label] for label in result.t] == ['b, or "c"', "a", "Ähre"]
    assert read_table(table(FLOWERS, "TABLE.CSV")).classes == ("a", "b")


def test_target_and_weights_are_columns_by_name(table):
    path = table("kind,count,a,b\nx,2,.5,1e3\ny,0,-1,4\n")
    result = read_table(path, target="kind", weights="count")
    np.testing.assert_array_equal(result.x, [[0.5, 1000], [-1, 4]])
    np.testing.assert_array_equal(result.weights, [2.0, 0.0], strict=True)
    assert (result.classes, result.columns, result.target) == (("x", "y"), ("a", "b"), "kind")


@pytest.mark.parametrize(
    ("cells", "kind", "labels", "classes"),
    [
        ("10 9 10", None, [1, 0, 1], ("9", "10")),
        ("1.0 0.0 1", None, [2, 0, 1], ("0.0", "1", "1.0")),
        ("1 01 10 9 1", None, [1, 0, 3, 2, 1], ("01", "1", "9", "10")),
        ("9007199254740993 9007199254740992", None, [1, 0], ("9007199254740992", "9007199254740993")),
        ("10 9 10", "numbers", [10.0, 9.0, 10.0], ()),
        ("1.5 0 2", None, [1.5, 0.0, 2.0], ()),
        ("1.5 -3 10", "classes", [1, 0, 2], ("-3", "1.5", "10")),
        (" ".join(map(str, range(20))), None, list(range(20)), tuple(map(str, range(20)))),
        (" ".join(map(str, range(21))), None, [float(v) for v in range(21)], ()),
        (" ".join(map(str, range(21))), "classes", list(range(21)), tuple(map(str, range(21)))),
        ("b_1 a b_1", "classes", [1, 0, 1], ("a", "b_1")),
        ("10 9 x", "classes", [0, 1, 2], ("10", "9", "x")),
    ],
)
def test_targets_are_read_as_classes_or_as_numbers(table, npz, cells, kind, labels, classes):
    cells = cells.split()
    sources = [table("x,t\n" + "".join(f"0, {cell}\n" for cell in cells))]
    sources += [npz(x=np.ones(len(cells)), t=[f"{cell} " for cell in cells])]
    if not {"x", "a", "01", "1.0", "9007199254740993"} & {*cells}:
        sources += [npz(x=np.ones(len(cells)), t=np.array(cells, float))]
    for source in sources:
        result = read_table(source, kind=kind)
        np.testing.assert_array_equal(result.t, np.array(labels), strict=True)
        assert result.classes == classes


def test_a_source_with_named_classes_has_classes_unless_kind_says_numbers():
    assert read_table("iris", kind="classes").classes == read_table("iris").classes
    result = read_table("iris", kind="numbers")
    assert (result.classes, result.t.dtype) == ((), float)
    assert len(read_table("diabetes", kind="classes").classes) == 214


@pytest.mark.parametrize(
    ("text", "settings", "sentence"),
    [
        ("", {}, "expected a line of column names and at least one row below it in .*, got an empty file$"),
        ("a,b\n\n", {}, "expected a line of column names .*, got the names alone$"),
        ("a,b,a\n1,2,3\n", {}, "expected a name of its own for each column of .*, got the name 'a' for 2 of them$"),
        (
            "a,t\n1,2\n",
            {"weights": "a"},
            "at least one of features in .*, apart from any weights, got the columns a, t$",
        ),
        (
            "a,b,t\n1,2,3\n",
            {"target": "t", "weights": "t"},
            "expected a column of targets and .*, got the columns a, b, t$",
        ),
        ("a,t\n1,2\n", {"target": "T"}, r"^expected target to be one of the columns of .* \(a, t\), got 'T'$"),
        ("a,t\n1,2\n", {"weights": "w"}, r"^expected weights to be one of the columns of .* \(a, t\), got 'w'$"),
        ("a,t\n1,2\n\n3\n", {}, "expected 2 cells, one for each column, in .*, row 2, got 1$"),
        ("a,t\n1,2,3\n", {}, "expected 2 cells, one for each column, in .*, row 1, got 3$"),
        ("a,b,t\n-inf,2,3\n", {}, "a finite number in .*, row 1, column a, got '-inf'$"),
        ("a,b,t\n1e999,2,3\n", {}, "a finite number in .*, row 1, column a, got '1e999'$"),
        ("a,b,t\n1,2,3\n1,red,3\n", {}, "a finite number in .*, row 2, column b, got 'red'$"),
        ("a,b,t\n1_000,2,3\n", {}, "a finite number in .*, row 1, column a, got '1_000'$"),
        ("a,t\n1,2\n1,3\n1,4?\n", {}, r"a number, as in most rows, in .*, row 3, column t, got '4\?'$"),
        ("a,t\n1,2\n1,x\n", {"kind": "numbers"}, "a finite number in .*, row 2, column t, got 'x'$"),
        ("a,t\n1,x\n1,x\n", {}, "expected at least 2 classes in .*, got only x$"),
        ("a,t\n1,7\n1,7\n", {}, "at least 2 classes in .*, got only 7$"),
        ("a,w,t\n1,1,2\n1,-2,2\n", {"weights": "w"}, "expected a weight of 0 or more in .*, row 2, column w, got -2$"),
        ("a,w,t\n1,inf,2\n", {"weights": "w"}, "a finite number in .*, row 1, column w, got 'inf'$"),
        ('a,t\n1,"2\n', {}, "cannot be read as cells separated by commas: unexpected end of data$"),
        ("a,,t\n1,2,3\n", {}, "got the name '' for 1 of them$"),
        ("a\n1\n", {}, "expected a column of targets and at least one of features in .*, got the columns a$"),
        ("a,t\n1,\n2,?\n", {}, "expected targets in column t of .*, got no value in any row$"),
        ("a,t\n1,x\n1,Yes\n2,yes\n", {}, "differ in more than case and spaces in .*, column t, got 'Yes' and 'yes'$"),
        ("a,t\n1,2.5\n2,2.5\n", {}, "expected targets that are not all equal in .*, column t, got 2.5 everywhere$"),
        (
            "a,b,t\n,?,2\n,NA,3\n",
            {},
            r"to learn from in .*, got only .* \(a: it has no values; b: it",
        ),
        ("a,w,t\n1,1,2\n1,,3\n", {"weights": "w"}, "expected a finite number in .*, row 2, column w, got ''$"),
        ("a,t\n1,$5\n1,$6\n1,$6\n", {}, "a number, as in most rows, in .*, row 1, column t, got '\\$5'$"),
        ('a,t\n1,"1,200"\n1,"1,300"\n', {}, "a number, as in most rows, in .*, row 1, column t, got '1,200'$"),
        (
            "a,t\n" + "".join(f"{i},customer {i}\n" for i in range(30)),
            {},
            "expected classes or numbers in .*, column t, got 30 different texts in 30 rows$",
        ),
        (
            "1,2,3\n4,5,6\n",
            {},
            r"^expected header to be none or first for .*, whose .* names \(1, 2, 3\), got None$",
        ),
    ],
)
def test_a_bad_csv_gets_a_sentence(table, text, settings, sentence):
    with pytest.raises(ValueError, match=sentence) as caught:
        read_table(table(text), **settings)
    assert "table.csv" in str(caught.value)


@pytest.mark.parametrize(
    ("targets", "classes"),
    [
        (pd.array([1, None, 0, 1], "Int64"), ("0", "1")),
        (pd.array([True, None, False, True], "boolean"), ("False", "True")),
        (pd.Categorical(["q", None, "p", "q"]), ("p", "q")),
        (
            pd.to_datetime(["2024-01-02", None, "2024-01-01", "2024-01-02"]),
            ("2024-01-01 00:00:00", "2024-01-02 00:00:00"),
        ),
        ([Decimal(2), None, Decimal(1), Decimal(2)], ("1", "2")),
    ],
)
def test_targets_of_any_dtype_are_classes(tmp_path, targets, classes):
    pytest.importorskip("pyarrow")
    path = str(tmp_path / "t.parquet")
    pd.DataFrame({"a": [1, 2, 3, 4], "t": targets}).to_parquet(path)
    result = read_table(path)
    np.testing.assert_array_equal(result.t, [1, 0, 1])
    assert result.classes == classes
    assert result.notes == (f"rows of {path} without a target are left out: 1 of 4",)


def test_a_file_in_another_encoding_and_a_folder_get_a_sentence(table, tmp_path):
    with pytest.raises(ValueError, match=r"^expected text in UTF-8, UTF-16 or Windows-1252 in .*table.csv, got other"):
        read_table(table(FLOWERS, encoding="utf-16-le"))
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(ValueError, match=r"folder.npz cannot be read: Is a directory"):
        read_table(str(tmp_path / "folder.npz"))


def test_features_to_predict_from_are_found_by_name(npz):
    columns = ("length", "width")
    np.testing.assert_array_equal(read_features(npz(x=[[1, 2], [3, 4]]), columns), [[1, 2], [3, 4]])
    assert read_features(npz(x=np.ones((4, 2, 3))), tuple("abcdef")).shape == (4, 6)


def test_other_features_than_those_trained_on_get_a_sentence(npz):
    with pytest.raises(ValueError, match=r"^expected 2 features in array x of .*table.npz, which are a, b, got 3$"):
        read_features(npz(x=np.ones((4, 3))), ("a", "b"))
    with pytest.raises(ValueError, match=r"^expected an array x in .*table.npz, got t$"):
        read_features(npz(t=[1]), ("a",))
    with pytest.raises(ValueError, match=r"^no such file: none.npz$"):
        read_features("none.npz", ("a",))


def test_features_of_an_npz_are_found_by_name_where_it_has_names(npz):
    path = npz(x=[[2, 0, 1], [4, 0, 3]], columns=["width ", "species", "length"])
    np.testing.assert_array_equal(read_features(path, ("length", "width"), ("species", None)), [[1, 2], [3, 4]])
    np.testing.assert_array_equal(read_features(path, ("width", "species", "length")), [[2, 0, 1], [4, 0, 3]])
    sentence = (
        r"^expected the columns length, b in .*table.npz, got a table that lacks b and has unknown width, species$"
    )
    with pytest.raises(ValueError, match=sentence):
        read_features(path, ("length", "b"))
    for names, sentence in (
        (["a", "b", "a"], "expected a name of its own for each column of .*, got the name 'a' for 2 of them$"),
        (["a", "b"], r"expected shape \(3,\) for array columns of .*table.npz, got \(2,\)$"),
    ):
        with pytest.raises(ValueError, match=sentence):
            read_features(npz(x=np.ones((2, 3)), columns=names), ("a", "b", "a"))


@pytest.mark.parametrize(
    ("t", "classes"),
    [
        (np.array([2**53 + 1, 2**53]), ("9007199254740992", "9007199254740993")),
        (np.array([2**64 - 1, 2**64 - 2], np.uint64), ("18446744073709551614", "18446744073709551615")),
        (np.array([True, False]), ("0", "1")),
    ],
)
def test_integers_of_an_npz_are_classes_without_rounding(npz, t, classes):
    result = read_table(npz(x=np.ones(2), t=t))
    np.testing.assert_array_equal(result.t, np.array([1, 0]), strict=True)
    assert result.classes == classes


def test_integers_stay_exact_beside_a_test_part_of_another_dtype(npz):
    t = np.array([2**53 + 1, 2**53, 2**53])
    for dtype in (np.uint64, float):
        result = read_table(npz(x=np.ones(3), t=t, x_test=np.ones(1), t_test=np.array([2**53], dtype)))
        assert (result.t.tolist(), result.classes) == ([1, 0, 0], ("9007199254740992", "9007199254740993"))
        assert result.test
        np.testing.assert_array_equal(result.test[1], np.array([0]), strict=True)


def test_an_npz_holds_arrays_by_their_names(npz):
    x = np.arange(24.0).reshape(4, 2, 3)
    result = read_table(npz(x=x, t=[[1], [0], [1], [2]], weights=[1, 0, 2, 1], classes=["p", "q", "r"], other=[1]))
    np.testing.assert_array_equal(result.x, x.reshape(4, 6), strict=True)
    np.testing.assert_array_equal(result.t, np.array([1, 0, 1, 2]), strict=True)
    np.testing.assert_array_equal(result.weights, np.array([1.0, 0, 2, 1]), strict=True)
    assert result.columns == ("x_0_0", "x_0_1", "x_0_2", "x_1_0", "x_1_1", "x_1_2")
    assert (result.classes, result.target, result.test) == (("p", "q", "r"), "t", None)
    assert read_table(npz(x=x[:, 0], t=[1, 0, 1, 2], columns=["a", "b", "c"])).columns == ("a", "b", "c")
    assert read_table(npz(x=x[:, 0, 0], t=[1, 0, 1, 2])).x.shape == (4, 1)


@pytest.mark.parametrize(
    ("dtype", "kept"),
    [("u1", "f4"), ("f2", "f4"), ("f4", "f4"), (">f4", "f4"), ("?", "f4"), ("i4", "f8"), ("i8", "f8"), ("f8", "f8")],
)
def test_an_npz_is_float32_where_nothing_is_lost(npz, dtype, kept):
    assert read_table(npz(x=np.ones((2, 3), dtype), t=[0, 1])).x.dtype == np.dtype(kept)


@pytest.mark.parametrize("names", [("x", "t", "x_test", "t_test"), ("x_train", "y_train", "x_test", "y_test")])
def test_an_npz_may_have_a_test_part(npz, names):
    arrays = (np.arange(8.0).reshape(4, 2), ["b", "a", "c", "b"], np.ones((2, 2)), ["c", "b"])
    result = read_table(npz(**dict(zip(names, arrays, strict=True))))
    np.testing.assert_array_equal(result.x, arrays[0])
    np.testing.assert_array_equal(result.t, [1, 0, 2, 1])
    assert result.test
    np.testing.assert_array_equal(result.test[0], arrays[2])
    np.testing.assert_array_equal(result.test[1], np.array([2, 1]), strict=True)
    assert result.target == names[1]


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"t": None}, "expected an array t in .*, got x$"),
        ({"x": None}, "expected an array x in .*, got t$"),
        ({"x": None, "t": None}, "expected an array x in .*, got none of x, t, x_train, .*, columns$"),
        ({"x_test": np.ones((2, 2))}, "an array t_test in .*, got x, t, x_test$"),
        ({"t_test": [1]}, "an array x_test in .*, got x, t, t_test$"),
        ({"x": np.array([[1, np.nan], [1, 2]])}, r"expected a finite number for x\[0, 1\] of .*, got nan$"),
        ({"t": [1, np.inf]}, r"a finite number for t\[1\] of .*, got inf$"),
        ({"t": [1, 2, 3]}, r"expected shape \(2,\) for array t of .*, got \(3,\)$"),
        ({"t": np.ones((2, 2))}, r"shape \(2,\) for array t of .*, got \(2, 2\)$"),
        ({"x": np.ones((0, 2))}, r"expected at least one example, a row, in array x of .*, got shape \(0, 2\)$"),
        ({"x": np.ones(())}, r"at least one example, a row, in array x of .*, got shape \(\)$"),
        ({"x": [["a"], ["b"]]}, "expected numbers in array x of .*, got <U1$"),
        ({"x": np.ones((2, 2), complex)}, "numbers in array x of .*, got complex128$"),
        (
            {"x": np.array([[1], [None]])},
            "expected numbers or text in array x of .*, got Python objects, as NumPy makes of images or .* sizes",
        ),
        ({"weights": [1, -1]}, "expected a weight of 0 or more in .*, row 2, column weights, got -1$"),
        ({"weights": [1, np.nan]}, r"a finite number for weights\[1\] of .*, got nan$"),
        ({"weights": ["a", "b"]}, "numbers in array weights of .*, got <U1$"),
        ({"weights": [1]}, r"shape \(2,\) for array weights of .*, got \(1,\)$"),
        ({"columns": ["a"]}, r"shape \(2,\) for array columns of .*, got \(1,\)$"),
        (
            {"x": [[1, 2], [1, 10**400]]},
            "expected numbers or text in array x of .*, got Python objects, as NumPy makes of images or .* sizes",
        ),
        ({"x": np.array([[1, 2], [1, "1e400"]], np.longdouble)}, r"a finite number for x\[1, 1\] of .*, got inf$"),
        ({"columns": ["a", "a "]}, "a name of its own for each column of .*, got the name 'a' for 2 of them$"),
        ({"classes": ["a", "a"]}, "a name of its own for each class of .*, got the name 'a' for 2 of them$"),
        ({"classes": ["a", ""]}, "a name of its own for each class of .*, got the name '' for 1 of them$"),
        ({"classes": ["a", "b", "c"]}, "expected an example of every class of .*, got 2 for 3 classes$"),
        (
            {"classes": ["a", "b", "c"], "x": np.ones((3, 2)), "t": [0, 2, 2]},
            "expected an example of every class of .*, got none of class b$",
        ),
        ({"classes": ["a"]}, "expected a label from 0 to 0, one for each class, in .*, row 2, column t, got 1$"),
        ({"classes": ["a", "b"], "t": [0.5, 1]}, "a label from 0 to 1, .*, row 1, column t, got 0.5$"),
        ({"classes": ["a", "b"], "t": [1, 2**53 + 1]}, "a label from 0 to 1, .*, column t, got 9007199254740993$"),
        ({"classes": ["a", "b"], "t": [1, -1]}, "a label from 0 to 1, .*, row 2, column t, got -1$"),
        ({"classes": ["a", "b"], "t": ["a", "b"]}, "a finite number in .*, row 1, column t, got 'a'$"),
        (
            {"x_test": np.ones((1, 3)), "t_test": [1]},
            r"expected examples of shape \(2,\) in array x_test of .*, as in x, got \(3,\)$",
        ),
        (
            {"x_test": np.ones((1, 2)), "t_test": [5]},
            "only classes of the training part in the test part of .*, got 5$",
        ),
    ],
)
def test_a_bad_npz_gets_a_sentence(npz, changed, sentence):
    arrays = {"x": np.ones((2, 2)), "t": [0, 1], "unused": [0], **changed}
    with pytest.raises(ValueError, match=sentence) as caught:
        read_table(npz(**{name: array for name, array in arrays.items() if array is not None}))
    assert "table.npz" in str(caught.value)


def test_a_damaged_npz_gets_a_sentence(npz, tmp_path):
    path = npz(x=np.ones((100, 2)), t=np.arange(100) % 2)
    content = (tmp_path / "table.npz").read_bytes()
    flipped = bytearray(content)
    flipped[500] ^= 255
    for data in (b"", b"no archive", content[:-100], bytes(flipped)):
        (tmp_path / "table.npz").write_bytes(data)
        with pytest.raises(ValueError, match=r"table.npz is damaged or not an .npz file: "):
            read_table(path)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("x", "no array")
    with pytest.raises(ValueError, match=r"^expected numbers in array x of .*table.npz, got \|S8$"):
        read_table(path)


def header(text, version=(1, 0)):
    """Returns the beginning of an .npy file, with any text as its header."""
    return b"\x93NUMPY" + bytes(version) + struct.pack("<H" if version == (1, 0) else "<I", len(text)) + text.encode()


def patch(path, offset, value):
    """Overwrites two bytes in both headers of each file in an archive; `offset` is that in the local header."""
    content = bytearray(path.read_bytes())
    for mark, start in ((b"PK\x03\x04", offset), (b"PK\x01\x02", offset + 2)):
        place = content.find(mark)
        while place >= 0:
            content[place + start : place + start + 2] = struct.pack("<H", value)
            place = content.find(mark, place + 4)
    path.write_bytes(content)


def test_an_archive_that_zipfile_or_numpy_refuses_gets_a_sentence(npz, tmp_path):
    path = tmp_path / "table.npz"
    for offset, value, sentence in (
        (6, 1, "array x of .*table.npz cannot be read: File 'x.npy' is encrypted, password required for extraction$"),
        (8, 99, "array x of .*table.npz cannot be read: That compression method is not supported$"),
    ):
        npz(x=np.ones((2, 2)), t=[0, 1])
        patch(path, offset, value)
        with pytest.raises(ValueError, match=f"^{sentence}"):
            read_table(str(path))
    for text in (
        "{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000, 1), }",  # more than the machine's memory
        f"{{'descr': '<f8', 'fortran_order': False, 'shape': ({2**80}, 1), }}",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (-3, 1), }",
        "{'descr': '<f8', 'fortran_order': False, 'shape': " + "(" * 5000 + ")" * 4000 + ", }",
        "-" * 9000 + "1",
        "[" * 150 + "]" * 150,
        "x" * 9999,
        "x" * 10_001,
        "{'descr': '|O', 'fortran_order': False, 'shape': (2, 1), }",
    ):
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("x.npy", header(text, (3, 0)) + bytes(100))
        with pytest.raises(ValueError, match=r"^[^\n]*table.npz,? [^\n]*$") as caught:
            read_table(str(path))
        assert len(str(caught.value)) < 400
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("x.npy", header("{}"))
        file.writestr("x", header("{}"))
    with pytest.raises(ValueError, match=r"^.*table.npz is damaged or not an .npz file: it holds 2 arrays x$"):
        read_table(str(path))


def test_a_class_without_an_example_is_refused_before_its_names_are_read(npz, tmp_path):
    """Empty names take no space in a file, so that a small file can hold any number of them."""
    npz(x=np.ones((2, 2)), t=[0, 1])
    with zipfile.ZipFile(tmp_path / "table.npz", "a") as file:
        text = "{'descr': '<U0', 'fortran_order': False, 'shape': (1000000000000,), }"
        file.writestr("classes.npy", header(text))
    with pytest.raises(ValueError, match=r"got 2 for 1000000000000 classes$"):
        read_table(str(tmp_path / "table.npz"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_pipes_and_devices_are_refused_before_they_are_opened(tmp_path, folder):
    """Opening a pipe would wait for a writer."""
    sentence = "^expected a regular file, got a pipe, a socket or a device: "
    for name in ("table.csv", "table.npz"):
        os.mkfifo(tmp_path / name)
        (tmp_path / "linked").with_suffix(name[-4:]).symlink_to(os.devnull)
        for path in (tmp_path / name, (tmp_path / "linked").with_suffix(name[-4:])):
            with pytest.raises(ValueError, match=f"{sentence}.*{path.name}$"):
                read_table(str(path))
            with pytest.raises(ValueError, match=f"{sentence}.*{path.name}$"):
                read_features(str(path), ("a",))
    for name in ("train-labels-idx1-ubyte", "train-images-idx3-ubyte.gz"):
        path = folder({**MNIST, name.removesuffix(".gz"): None})
        (tmp_path / name.removesuffix(".gz")).unlink(missing_ok=True)
        os.mkfifo(tmp_path / name)
        with pytest.raises(ValueError, match=f"{sentence}.*{name}$"):
            read_table(path)
        (tmp_path / name).unlink()


def test_long_names_and_cells_stay_short_in_messages(table, npz):
    name, x = "n" * 6000, np.ones((2, 2))
    for read in (
        lambda: read_features(npz(x=x, columns=["a", name]), ("a", "b")),
        lambda: read_features(npz(x=x, columns=["a", "b"]), (name, f"{name}2")),
        lambda: read_table(table(f"a,{name},{name}\n1,2,3\n")),
        lambda: read_table(table(f"{name},t\n1,3\ninf,3\n")),
        lambda: read_table(table(f"a,t\n{'9' * 6000},3\n")),
        lambda: read_table(table(f"{name};t\n1\n")),
        lambda: read_table(table(f"a,{name}\n1,2\n"), target="b"),
        lambda: read_table(table(f"a,t\n1,{name}\n")),
        lambda: read_table(npz(x=x, t=[0, 1], columns=[name, name])),
        lambda: read_table(npz(x=x, t=[0, 0], classes=["a", name])),
        lambda: read_table(npz(x=x, t=["a", "b"], x_test=x, t_test=["a", name])),
    ):
        with pytest.raises(ValueError, match=r"^[^\n]*$") as caught:
            read()
        assert len(str(caught.value)) < 400
    with pytest.raises(ValueError, match=r"column b\\nc, got 'inf'$"):
        read_table(table('"b\nc",t\ninf,2\n'))


@pytest.mark.parametrize("packed", [False, True])
def test_a_folder_of_idx_files(folder, packed):
    files = {f"{name}.gz": gzip.compress(data) for name, data in MNIST.items()} if packed else MNIST
    result = read_table(folder(files))
    np.testing.assert_array_equal(result.x, IMAGES.reshape(5, 6).astype(np.float32), strict=True)
    np.testing.assert_array_equal(result.t, np.array([0, 2, 1, 2, 1]), strict=True)
    assert result.test
    np.testing.assert_array_equal(result.test[0], (IMAGES[:2] + 100).reshape(2, 6).astype(np.float32), strict=True)
    np.testing.assert_array_equal(result.test[1], np.array([2, 1]), strict=True)
    names = ("pixel_0_0", "pixel_0_1", "pixel_0_2", "pixel_1_0", "pixel_1_1", "pixel_1_2")
    assert (result.classes, result.columns) == (("0", "1", "3"), names)


def test_a_folder_may_lack_the_test_part_and_its_labels_may_be_numbers(folder):
    result = read_table(folder({name: data for name, data in MNIST.items() if "train" in name}), kind="numbers")
    assert (result.test, result.classes) == (None, ())
    np.testing.assert_array_equal(result.t, np.array([0.0, 3, 1, 3, 1]), strict=True)


def test_the_labels_of_images_are_classes_however_many_there_are(folder):
    """EMNIST has 47 classes or more, and some of its labels begin at 1."""
    files = {"train-images-idx3-ubyte": idx(np.ones((30, 1, 1))), "train-labels-idx1-ubyte": idx(np.arange(1, 31))}
    result = read_table(folder(files))
    np.testing.assert_array_equal(result.t, np.arange(30), strict=True)
    assert result.classes == tuple(map(str, range(1, 31)))


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        (
            {"train_images_idx3_ubyte": None},
            "expected a file train-images-idx3-ubyte, plain or as .gz, in .*, got neither$",
        ),
        ({"train_labels_idx1_ubyte": None}, "a file train-labels-idx1-ubyte, plain or as .gz, in "),
        ({"t10k_labels_idx1_ubyte": None}, "a file t10k-labels-idx1-ubyte, plain or as .gz, in "),
        ({"t10k_images_idx3_ubyte": None}, "a file t10k-images-idx3-ubyte, plain or as .gz, in "),
        (
            {"train_images_idx3_ubyte": idx(IMAGES, 2049)},
            "to begin with the number 2051 and to have at least 16 bytes, got 2049 and 46 bytes$",
        ),
        (
            {"train_labels_idx1_ubyte": idx(IMAGES)},
            "to begin with the number 2049 and to have at least 8 bytes, got 2051 and 46 bytes$",
        ),
        ({"train_labels_idx1_ubyte": b""}, "begin with the number 2049 .*, got 0 and 0 bytes$"),
        ({"train_images_idx3_ubyte": idx(IMAGES)[:-1]}, r"expected 46 bytes in .*, for shape \(5, 2, 3\), got 45$"),
        ({"train_images_idx3_ubyte": idx(IMAGES) + b"0"}, "expected 46 bytes in .*, got 47$"),
        ({"train_images_idx3_ubyte": idx(IMAGES)[:9]}, "at least 16 bytes, got 2051 and 9 bytes$"),
        (
            {"train_labels_idx1_ubyte": idx([0, 1])},
            r"a label for each, in the train files .*, got images of shape \(5, 2, 3\) and 2 labels$",
        ),
        (
            {"t10k_images_idx3_ubyte": idx(np.ones((2, 3, 2)))},
            r"expected test images of \(2, 3\) pixels, as in the training images of .*, got \(3, 2\)$",
        ),
        ({"t10k_labels_idx1_ubyte": idx([3, 2])}, "only classes of the training part in the test part of .*, got 2$"),
        ({"t10k_labels_idx1_ubyte": idx([3, 7])}, "classes of the training part in the test part of .*, got 7$"),
        ({"train_labels_idx1_ubyte": idx([3, 3, 3, 3, 3])}, "expected at least 2 classes in .*, got only 3$"),
        (
            {"train_images_idx3_ubyte": idx(np.ones((0, 2, 3))), "train_labels_idx1_ubyte": idx([])},
            r"got images of shape \(0, 2, 3\) and 0 labels$",
        ),
    ],
)
def test_a_bad_idx_file_gets_a_sentence(folder, changed, sentence):
    with pytest.raises(ValueError, match=sentence):
        read_table(folder(**changed))


def test_a_damaged_gz_gets_a_sentence(folder):
    packed = gzip.compress(MNIST["train-images-idx3-ubyte"])
    for data in (packed[:-12], b"no gzip", packed[:20] + b"\xff\xff\xff" + packed[23:]):
        with pytest.raises(ValueError, match=r"train-images-idx3-ubyte.gz cannot be read: "):
            read_table(folder({"train-images-idx3-ubyte.gz": data}))


@pytest.fixture
def openml(tmp_path, monkeypatch):
    """Returns a function that puts a table into scikit-learn's cache, in the form of OpenML's answers."""
    monkeypatch.setenv("SCIKIT_LEARN_DATA", str(tmp_path))

    def refuse(*_, **__):
        raise URLError("no network")

    monkeypatch.setattr(_openml, "urlopen", refuse)
    monkeypatch.setattr(_openml.time, "sleep", lambda _: None)

    def put(path, data):
        file = tmp_path / "openml" / "openml.org" / f"{path}.gz"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(gzip.compress(data))

    def cache(name, columns, rows, version="status/active/"):
        """The last column is the target; columns with a list of values are nominal."""
        attributes = [f"@ATTRIBUTE {column} {kind}\n" for column, kind in columns.items()]
        arff = ("@RELATION r\n" + "".join(attributes) + "@DATA\n" + "\n".join(rows) + "\n").encode()
        features = [
            {
                "index": str(i),
                "name": column,
                "data_type": "numeric" if kind == "REAL" else "string" if kind == "STRING" else "nominal",
                "is_target": str(i == len(columns) - 1).lower(),
                "is_ignore": "false",
                "is_row_identifier": "false",
                "number_of_missing_values": "0",
            }
            for i, (column, kind) in enumerate(columns.items())
        ]
        info = {"did": 1, "name": name, "version": 1, "status": "active", "format": "ARFF"}
        url = "https://api.openml.org/data/v1/download/7/table.arff"
        details = {"url": url, "file_id": "7", "md5_checksum": hashlib.md5(arff).hexdigest(), "description": ""}
        counts = [{"name": "NumberOfInstances", "value": str(float(len(rows)))}]
        for path, answer in {
            f"list/data_name/{name.lower()}/limit/2/{version}": {"data": {"dataset": [info]}},
            "1": {"data_set_description": {**info, **details}},
            "features/1": {"data_features": {"feature": features}},
            "qualities/1": {"data_qualities": {"quality": counts}},
        }.items():
            put(f"api/v1/json/data/{path}", json.dumps(answer).encode())
        put("data/v1/download/7/table.arff", arff)
        put("data/v1/download/7", arff)  # where scikit-learn 1.6 looks for it

    return cache


PIXELS = {"pixel1": "REAL", "pixel2": "REAL", "class": "{0,1,2}"}


@pytest.mark.parametrize("name", [*openml_reader.IMAGES, "openml:mnist_784"])
def test_the_last_10000_of_mnist_are_its_test_part(openml, name):
    rows = [f"{i % 256},{i // 256},{i % 3}" for i in range(10_005)]
    openml(name.removeprefix("openml:"), PIXELS, rows, "data_version/1")
    result = read_table(name)
    expected = np.array([row.split(",") for row in rows], float)
    np.testing.assert_array_equal(result.x, expected[:5, :2].astype(np.float32), strict=True)
    assert result.test
    np.testing.assert_array_equal(result.test[0], expected[5:, :2].astype(np.float32), strict=True)
    np.testing.assert_array_equal(result.t, expected[:5, 2].astype(np.int64), strict=True)
    np.testing.assert_array_equal(result.test[1], expected[5:, 2].astype(np.int64), strict=True)
    assert (result.classes, result.columns, result.target) == (("0", "1", "2"), ("pixel1", "pixel2"), "class")


def test_other_tables_of_openml_have_no_test_part(openml):
    openml("Some", {"a": "REAL", "kind": "{q,p}"}, ["0.1,q", "2,p", "3,q"])
    result = read_table("openml:Some")
    np.testing.assert_array_equal(result.x.to_numpy(), np.array([[0.1], [2], [3]]), strict=True)
    np.testing.assert_array_equal(result.t, [1, 0, 1])
    assert (result.classes, result.test, result.target) == (("p", "q"), None, "kind")
    openml("Others", {"a": "REAL", "y": "REAL"}, ["1,.5", "2,.7"])
    np.testing.assert_array_equal(read_table("openml:Others").t, np.array([0.5, 0.7]), strict=True)


def test_columns_of_openml_are_numbers_and_categories(openml):
    openml("Mixed", {"a": "REAL", "b": "{u,v}", "y": "REAL"}, ["1,u,.5", "?,v,.7", "3,?,?"])
    result = read_table("openml:Mixed", columns=ColumnSettings(categorical=("a",)))
    assert dict(result.kinds) == {"a": "category", "b": "category"}
    assert result.x["b"].tolist() == ["u", "v"]
    assert result.x["a"].fillna("missing").tolist() == ["1", "missing"]
    assert result.notes == ("rows of openml:Mixed without a target are left out: 1 of 3",)
    np.testing.assert_array_equal(result.t, [0.5, 0.7])


def test_too_few_examples_of_mnist_get_a_sentence(openml):
    openml("mnist_784", PIXELS, ["1,2,0", "3,4,1"], "data_version/1")
    with pytest.raises(ValueError, match=r"^expected more than 10000 examples in mnist_784, .* test part, got 2$"):
        read_table("mnist_784")


@pytest.mark.usefixtures("openml")
def test_a_missing_network_gets_a_sentence():
    for source in ("mnist_784", "openml:unheard_of"):
        with pytest.raises(ValueError, match=f"^{source} cannot be fetched from OpenML: .*no network"):
            read_table(source)


@pytest.mark.usefixtures("openml")
def test_a_name_that_openml_does_not_know_gets_a_sentence(monkeypatch):
    def refuse(request):
        raise HTTPError(request.full_url, 412, "Precondition Failed", Message(), None)

    monkeypatch.setattr(_openml, "urlopen", refuse)
    with pytest.raises(ValueError, match=r"^openml:none cannot be fetched from OpenML: No active dataset none found"):
        read_table("openml:none")
