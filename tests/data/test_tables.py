import gzip
import hashlib
import inspect
import json
import struct
import zipfile
from email.message import Message
from urllib.error import HTTPError, URLError

import numpy as np
import pytest
import sklearn.datasets
from sklearn.datasets import _openml

from jaxann.data.tables import OPENML, SETS, read_features, read_table

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
def test_scikit_learns_tables_are_its_own(name):
    found, theirs = read_table(name), getattr(sklearn.datasets, f"load_{name}")()
    np.testing.assert_array_equal(found.x, theirs.data)
    np.testing.assert_array_equal(found.t, theirs.target)
    assert found.t.dtype == (float if name == "diabetes" else np.int64)
    assert found.columns == tuple(theirs.feature_names)
    assert found.classes == (() if name == "diabetes" else tuple(map(str, theirs.target_names)))
    assert (found.target, found.weights, found.test) == ("target", None, None)


def test_an_unknown_source_is_refused_with_what_there_is(tmp_path, table):
    names = "iris, wine, breast_cancer, digits, diabetes, mnist_784, Fashion-MNIST, openml:NAME, .csv, .npz and folders"
    for source in ("mnist", "", table("1,2", "table.txt")):
        with pytest.raises(ValueError, match=f"there is no dataset {source}, only {names}"):
            read_table(source)
    for name in ("none.csv", "none.npz", "none"):
        with pytest.raises(ValueError, match=rf"^no such file( or folder)?: .*{name}$"):
            read_table(str(tmp_path / name))


def test_a_kind_that_is_none_is_refused():
    with pytest.raises(ValueError, match="kind is 'labels', but classes or numbers is wanted"):
        inspect.unwrap(read_table)("iris", kind="labels")


@pytest.mark.parametrize("settings", [{"target": "y"}, {"weights": "y"}])
def test_only_a_csv_has_columns_to_name(settings, npz, folder):
    (option,) = settings
    for source in ("iris", "mnist_784", "openml:some.csv", npz(x=np.ones((2, 2)), t=[0, 1]), folder()):
        with pytest.raises(ValueError, match=f"{option} is 'y', but only a .csv's columns go by name"):
            read_table(source, **settings)


def test_a_csv_is_features_and_a_last_column_of_targets(table):
    found = read_table(table(FLOWERS))
    np.testing.assert_array_equal(found.x, np.array([[1, 2], [3, 4], [5, 6.5]]), strict=True)
    np.testing.assert_array_equal(found.t, np.array([1, 0, 1]), strict=True)
    assert found[2:] == (("a", "b"), ("length", "width"), "species", None, None)


def test_a_csv_may_be_quoted_marked_and_spaced(table):
    text = '"the length, in cm", width ,species\r\n\r\n"1",2,"b, or ""c"""\r\n   \r\n3, 4 , a\r\n5,6.5,Ähre\r\n\r\n'
    for encoding in ("utf-8", "utf-8-sig"):
        found = read_table(table(text, encoding=encoding))
        np.testing.assert_array_equal(found.x, [[1, 2], [3, 4], [5, 6.5]])
        assert found.columns == ("the length, in cm", "width")
        assert [found.classes[label] for label in found.t] == ['b, or "c"', "a", "Ähre"]
    assert read_table(table(FLOWERS, "TABLE.CSV")).classes == ("a", "b")


def test_target_and_weights_are_columns_by_name(table):
    path = table("kind,count,a,b\nx,2,.5,1e3\ny,0,-1,4\n")
    found = read_table(path, target="kind", weights="count")
    np.testing.assert_array_equal(found.x, [[0.5, 1000], [-1, 4]])
    np.testing.assert_array_equal(found.weights, [2.0, 0.0], strict=True)
    assert (found.classes, found.columns, found.target) == (("x", "y"), ("a", "b"), "kind")


@pytest.mark.parametrize(
    ("cells", "kind", "labels", "classes"),
    [
        ("10 9 10", None, [1, 0, 1], ("9", "10")),
        ("1.0 0.0 1", None, [1, 0, 1], ("0", "1")),
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
def test_what_is_a_class_and_what_a_number(table, npz, cells, kind, labels, classes):
    cells = cells.split()
    sources = [table("x,t\n" + "".join(f"0,{cell}\n" for cell in cells)), npz(x=np.ones(len(cells)), t=cells)]
    if "x" not in cells and "a" not in cells:
        sources += [npz(x=np.ones(len(cells)), t=np.array(cells, float))]
    for source in sources:
        found = read_table(source, kind=kind)
        np.testing.assert_array_equal(found.t, np.array(labels), strict=True)
        assert found.classes == classes


def test_names_of_classes_count_unless_numbers_are_asked_for():
    assert read_table("iris", kind="classes").classes == read_table("iris").classes
    found = read_table("iris", kind="numbers")
    assert (found.classes, found.t.dtype) == ((), float)
    assert len(read_table("diabetes", kind="classes").classes) == 214


@pytest.mark.parametrize(
    ("text", "settings", "sentence"),
    [
        ("", {}, "has no data, but a line of column names and rows"),
        ("a,b\n\n", {}, "has no data"),
        ("a,b,a\n1,2,3\n", {}, "has 2 of the name 'a' among its columns, but each wants its own"),
        (",b,t\n1,2,3\n", {}, "has 1 of the name '' among its columns"),
        ("a;t\n1;2\n", {}, "has the columns a;t, but a target and other columns are wanted"),
        ("a,t\n1,2\n", {"weights": "a"}, "has the columns a, t, but a target and other columns are wanted"),
        ("a,b,t\n1,2,3\n", {"target": "t", "weights": "t"}, "but a target and other columns are wanted"),
        ("a,t\n1,2\n", {"target": "T"}, "target is 'T', but .* has only the columns a, t$"),
        ("a,t\n1,2\n", {"weights": "w"}, "weights is 'w', but .* has only the columns a, t$"),
        ("a,t\n1,2\n\n3\n", {}, "row 2 has 1 cells, but there are 2 columns"),
        ("a,t\n1,2,3\n", {}, "row 1 has 3 cells, but there are 2 columns"),
        ("a,b,t\n1,2,3\n1,2,3\n1,,3\n", {}, "row 3, column b is '', but a finite number is wanted"),
        ("a,b,t\n1,2,3\n,,\n", {}, "row 2, column a is '', but a finite number"),
        ("a,b,t\n1,2,3\n1,NaN,3\n", {}, "row 2, column b is 'NaN', but a finite number"),
        ("a,b,t\n-inf,2,3\n", {}, "row 1, column a is '-inf', but a finite number"),
        ("a,b,t\n1e999,2,3\n", {}, "row 1, column a is '1e999', but a finite number"),
        ("a,b,t\n1,2,3\n1,red,3\n", {}, "row 2, column b is 'red', but a finite number"),
        ("a,b,t\n1_000,2,3\n", {}, "row 1, column a is '1_000', but a finite number"),
        ("a,t\n1,2\n1,nan\n", {}, "row 2, column t is 'nan', but a finite number"),
        ("a,t\n1,2\n1,\n1,3\n", {}, "row 2, column t is '', but a number, as elsewhere, is wanted"),
        ("a,t\n1,2\n1,3\n1,4?\n", {}, r"row 3, column t is '4\?', but a number, as elsewhere"),
        ("a,t\n1,x\n1,y\n1,nan\n", {}, "row 3, column t is 'nan', but text, as elsewhere"),
        ("a,t\n1,x\n1,\n1,y\n", {"kind": "classes"}, "row 2, column t is '', but text, as elsewhere"),
        ("a,t\n1,2\n1,x\n", {"kind": "numbers"}, "row 2, column t is 'x', but a finite number"),
        ("a,t\n1,x\n1,x\n", {}, "has the single class x, but 2 or more are wanted"),
        ("a,t\n1,7\n1,7\n", {}, "has the single class 7, but 2 or more"),
        ("a,w,t\n1,1,2\n1,-2,2\n", {"weights": "w"}, "row 2, column w is -2, but a weight of 0 or more is wanted"),
        ("a,w,t\n1,inf,2\n", {"weights": "w"}, "row 1, column w is 'inf', but a finite number"),
        ('a,t\n1,"2\n', {}, "is no comma-separated table: unexpected end of data"),
    ],
)
def test_a_bad_csv_gets_a_sentence(table, text, settings, sentence):
    with pytest.raises(ValueError, match=sentence) as caught:
        read_table(table(text), **settings)
    assert "table.csv" in str(caught.value)


def test_a_file_that_is_no_text_or_a_folder_gets_a_sentence(table, tmp_path):
    with pytest.raises(ValueError, match=r"table.csv is not text in UTF-8"):
        read_table(table(FLOWERS, encoding="utf-16"))
    for name in ("folder.csv", "folder.npz"):
        (tmp_path / name).mkdir()
        with pytest.raises(ValueError, match=rf"{name} cannot be read: Is a directory"):
            read_table(str(tmp_path / name))


def test_features_to_predict_from_go_by_name(table, npz):
    columns = ("length", "width")
    for text in ("width,length\n2,1\n4,3\n", "width,species,length\n2,b,1\n4,,3\n"):
        np.testing.assert_array_equal(read_features(table(text), columns, ("species", None)), [[1, 2], [3, 4]])
    np.testing.assert_array_equal(read_features(npz(x=[[1, 2], [3, 4]]), columns), [[1, 2], [3, 4]])
    assert read_features(npz(x=np.ones((4, 2, 3))), tuple("abcdef")).shape == (4, 6)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a,b\n1,2\n", "lacks c and has unknown b, but the columns a, c are wanted"),
        ("a\n1\n", "lacks c, but the columns a, c are wanted"),
        ("a,c,y\n1,2,3\n", "has unknown y, but"),
        ("a,c,d,e,f,g,h,i,j\n" + 9 * "1," + "\n", "row 1 has 10 cells"),
        ("a,c,d,e,f,g,h,i,j\n1,1,1,1,1,1,1,1,1\n", "has unknown d, e, f, g, h and 2 more, but"),
        ("c,a\n1,2\n1,x\n", "row 2, column a is 'x', but a finite number is wanted"),
    ],
)
def test_other_columns_than_those_trained_on_get_a_sentence(table, text, sentence):
    with pytest.raises(ValueError, match=rf"table.csv,? {sentence}"):
        read_features(table(text), ("a", "c"), ("t",))


def test_other_features_than_those_trained_on_get_a_sentence(npz, folder):
    with pytest.raises(ValueError, match=r"table.npz: x has 3 features, but 2 are wanted: a, b"):
        read_features(npz(x=np.ones((4, 3))), ("a", "b"))
    with pytest.raises(ValueError, match=r"table.npz has no array x, only t"):
        read_features(npz(t=[1]), ("a",))
    with pytest.raises(ValueError, match=r"is neither a .csv nor an .npz"):
        read_features(folder(), ("a",))
    with pytest.raises(ValueError, match=r"no such file: none.npz"):
        read_features("none.npz", ("a",))


def test_an_npz_holds_arrays_by_their_names(npz):
    x = np.arange(24.0).reshape(4, 2, 3)
    found = read_table(npz(x=x, t=[[1], [0], [1], [2]], weights=[1, 0, 2, 1], classes=["p", "q", "r"], other=[1]))
    np.testing.assert_array_equal(found.x, x.reshape(4, 6), strict=True)
    np.testing.assert_array_equal(found.t, np.array([1, 0, 1, 2]), strict=True)
    np.testing.assert_array_equal(found.weights, np.array([1.0, 0, 2, 1]), strict=True)
    assert found.columns == ("x_0_0", "x_0_1", "x_0_2", "x_1_0", "x_1_1", "x_1_2")
    assert (found.classes, found.target, found.test) == (("p", "q", "r"), "t", None)
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
    found = read_table(npz(**dict(zip(names, arrays, strict=True))))
    np.testing.assert_array_equal(found.x, arrays[0])
    np.testing.assert_array_equal(found.t, [1, 0, 2, 1])
    assert found.test
    np.testing.assert_array_equal(found.test[0], arrays[2])
    np.testing.assert_array_equal(found.test[1], np.array([2, 1]), strict=True)
    assert found.target == names[1]


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"t": None}, "has no array t, only x"),
        ({"x": None}, "has no array x, only t"),
        ({"x": None, "t": None}, "has no array x, only others"),
        ({"x_test": np.ones((2, 2))}, "has no array t_test, only x, t, x_test"),
        ({"t_test": [1]}, "has no array x_test, only x, t, t_test"),
        ({"x": np.array([[1, np.nan], [1, 2]])}, r"x\[0, 1\] is nan, but a finite number is wanted"),
        ({"t": [1, np.inf]}, r"t\[1\] is inf, but a finite number"),
        ({"t": [1, 2, 3]}, r"t has shape \(3,\), but \(2,\) is wanted"),
        ({"t": np.ones((2, 2))}, r"t has shape \(2, 2\), but \(2,\) is wanted"),
        ({"x": np.ones((0, 2))}, r"x has shape \(0, 2\), but at least one example"),
        ({"x": np.ones(())}, r"x has shape \(\), but at least one example"),
        ({"x": [["a"], ["b"]]}, "x is an array of <U1, but numbers are wanted"),
        ({"x": np.ones((2, 2), complex)}, "x is an array of complex128, but numbers are wanted"),
        ({"x": np.array([[1], [None]])}, "x is no array of numbers or text: Object arrays cannot be loaded"),
        ({"weights": [1, -1]}, "row 2, column weights is -1, but a weight of 0 or more is wanted"),
        ({"weights": [1, np.nan]}, r"weights\[1\] is nan, but a finite number"),
        ({"weights": ["a", "b"]}, "weights is an array of <U1, but numbers are wanted"),
        ({"weights": [1]}, r"weights has shape \(1,\), but \(2,\) is wanted"),
        ({"columns": ["a"]}, r"columns has shape \(1,\), but \(2,\) is wanted"),
        ({"classes": ["a"]}, "t wants labels 0 to 0, one for each class"),
        ({"classes": ["a", "b"], "t": [0.5, 1]}, "t wants labels 0 to 1, one for each class"),
        ({"classes": ["a", "b"], "t": [-1, 1]}, "t wants labels 0 to 1, one for each class"),
        ({"classes": ["a", "b"], "t": ["a", "b"]}, "row 1, column t is 'a', but a finite number"),
        ({"x_test": np.ones((1, 3)), "t_test": [1]}, "x_test has 3 features, but x has 2"),
        ({"x_test": np.ones((1, 2)), "t_test": [5]}, "the test part has the class 5, but the training part has not"),
    ],
)
def test_a_bad_npz_gets_a_sentence(npz, changed, sentence):
    arrays = {"x": np.ones((2, 2)), "t": [0, 1], "unused": [0], **changed}
    with pytest.raises(ValueError, match=sentence) as caught:
        read_table(npz(**{name: array for name, array in arrays.items() if array is not None}))
    assert "table.npz" in str(caught.value)


def test_a_damaged_npz_gets_a_sentence(npz, tmp_path):
    path = npz(x=np.ones((100, 2)), t=np.arange(100) % 2)
    whole = (tmp_path / "table.npz").read_bytes()
    flipped = bytearray(whole)
    flipped[500] ^= 255
    for data in (b"", b"no archive", whole[:-100], bytes(flipped)):
        (tmp_path / "table.npz").write_bytes(data)
        with pytest.raises(ValueError, match=r"table.npz is damaged or no .npz: "):
            read_table(path)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("x", "no array")
    with pytest.raises(ValueError, match=r"table.npz: x is an array of .*, but numbers are wanted"):
        read_table(path)


@pytest.mark.parametrize("packed", [False, True])
def test_a_folder_of_idx_files(folder, packed):
    files = {f"{name}.gz": gzip.compress(data) for name, data in MNIST.items()} if packed else MNIST
    found = read_table(folder(files))
    np.testing.assert_array_equal(found.x, IMAGES.reshape(5, 6).astype(np.float32), strict=True)
    np.testing.assert_array_equal(found.t, np.array([0, 3, 1, 3, 1]), strict=True)
    assert found.test
    np.testing.assert_array_equal(found.test[0], (IMAGES[:2] + 100).reshape(2, 6).astype(np.float32), strict=True)
    np.testing.assert_array_equal(found.test[1], np.array([3, 1]), strict=True)
    names = ("pixel_0_0", "pixel_0_1", "pixel_0_2", "pixel_1_0", "pixel_1_1", "pixel_1_2")
    assert (found.classes, found.columns) == (("0", "1", "2", "3"), names)


def test_a_folder_may_lack_the_test_part_and_its_labels_may_be_numbers(folder):
    found = read_table(folder({name: data for name, data in MNIST.items() if "train" in name}), kind="numbers")
    assert (found.test, found.classes, found.t.dtype) == (None, (), float)


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"train_images_idx3_ubyte": None}, "has no train-images-idx3-ubyte, plain or .gz"),
        ({"train_labels_idx1_ubyte": None}, "has no train-labels-idx1-ubyte, plain or .gz"),
        ({"t10k_labels_idx1_ubyte": None}, "has no t10k-labels-idx1-ubyte, plain or .gz"),
        ({"t10k_images_idx3_ubyte": None}, "has no t10k-images-idx3-ubyte, plain or .gz"),
        ({"train_images_idx3_ubyte": idx(IMAGES, 2049)}, "has 46 bytes and begins with 2049, but 2051 is wanted"),
        ({"train_labels_idx1_ubyte": idx(IMAGES)}, "has 46 bytes and begins with 2051, but 2049 is wanted"),
        ({"train_labels_idx1_ubyte": b""}, "has 0 bytes and begins with 0, but 2049 is wanted"),
        ({"train_images_idx3_ubyte": idx(IMAGES)[:-1]}, r"has 45 bytes, but 46 are wanted, for shape \(5, 2, 3\)"),
        ({"train_images_idx3_ubyte": idx(IMAGES) + b"0"}, "has 47 bytes, but 46 are wanted"),
        ({"train_images_idx3_ubyte": idx(IMAGES)[:9]}, "has 9 bytes and begins with 2051"),
        ({"train_labels_idx1_ubyte": idx([0, 1])}, r"train has images of shape \(5, 2, 3\), but 2 labels"),
        (
            {"t10k_images_idx3_ubyte": idx(np.ones((2, 3, 2)))},
            r"training images are \(2, 3\) pixels, but test .*\(3, 2",
        ),
        ({"t10k_labels_idx1_ubyte": idx([3, 2])}, "the test part has the class 2, but the training part has not"),
        ({"t10k_labels_idx1_ubyte": idx([3, 7])}, "the test part has the class 7, but the training part has not"),
        ({"train_labels_idx1_ubyte": idx([3, 3, 3, 3, 3])}, "has the single class 3, but 2 or more are wanted"),
        (
            {"train_images_idx3_ubyte": idx(np.ones((0, 2, 3))), "train_labels_idx1_ubyte": idx([])},
            r"train has images of shape \(0, 2, 3\), but 0 labels",
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
    """Puts a table into scikit-learn's cache as OpenML's answers lie there."""
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
        """The last column is the target; those with a list of values are nominal."""
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
        more = {"url": url, "md5_checksum": hashlib.md5(arff).hexdigest(), "description": ""}
        counts = [{"name": "NumberOfInstances", "value": str(float(len(rows)))}]
        for path, answer in {
            f"list/data_name/{name.lower()}/limit/2/{version}": {"data": {"dataset": [info]}},
            "1": {"data_set_description": {**info, **more}},
            "features/1": {"data_features": {"feature": features}},
            "qualities/1": {"data_qualities": {"quality": counts}},
        }.items():
            put(f"api/v1/json/data/{path}", json.dumps(answer).encode())
        put("data/v1/download/7/table.arff", arff)

    return cache


PIXELS = {"pixel1": "REAL", "pixel2": "REAL", "class": "{0,1,2}"}


@pytest.mark.parametrize("name", [*OPENML, "openml:mnist_784"])
def test_the_last_10000_of_mnist_are_its_test_part(openml, name):
    rows = [f"{i % 256},{i // 256},{i % 3}" for i in range(10_005)]
    openml(name.removeprefix("openml:"), PIXELS, rows, "data_version/1")
    found = read_table(name)
    wanted = np.array([row.split(",") for row in rows], float)
    np.testing.assert_array_equal(found.x, wanted[:5, :2].astype(np.float32), strict=True)
    assert found.test
    np.testing.assert_array_equal(found.test[0], wanted[5:, :2].astype(np.float32), strict=True)
    np.testing.assert_array_equal(found.t, wanted[:5, 2].astype(np.int64), strict=True)
    np.testing.assert_array_equal(found.test[1], wanted[5:, 2].astype(np.int64), strict=True)
    assert (found.classes, found.columns, found.target) == (("0", "1", "2"), ("pixel1", "pixel2"), "class")


def test_other_tables_of_openml_have_no_test_part(openml):
    openml("Some", {"a": "REAL", "kind": "{q,p}"}, ["0.1,q", "2,p", "3,q"])
    found = read_table("openml:Some")
    np.testing.assert_array_equal(found.x, np.array([[0.1], [2], [3]]), strict=True)
    np.testing.assert_array_equal(found.t, [1, 0, 1])
    assert (found.classes, found.test, found.target) == (("p", "q"), None, "kind")
    openml("Others", {"a": "REAL", "y": "REAL"}, ["1,.5", "2,.7"])
    np.testing.assert_array_equal(read_table("openml:Others").t, np.array([0.5, 0.7]), strict=True)


@pytest.mark.parametrize(
    ("columns", "rows", "sentence"),
    [
        ({"a": "{u,v}", "y": "REAL"}, ["u,.5", "v,.7"], "openml:Some has features that are no numbers: a"),
        ({"a": "STRING", "y": "REAL"}, ["u,.5"], "openml:Some cannot be had from OpenML: STRING attributes are not"),
        ({"a": "REAL", "y": "REAL"}, ["1,.5", "?,.7"], r"openml:Some: x\[1, 0\] is nan, but a finite number is wanted"),
    ],
)
def test_a_table_of_openml_that_is_no_use_gets_a_sentence(openml, columns, rows, sentence):
    openml("Some", columns, rows)
    with pytest.raises(ValueError, match=sentence):
        read_table("openml:Some")


def test_too_few_of_mnist_get_a_sentence(openml):
    openml("mnist_784", PIXELS, ["1,2,0", "3,4,1"], "data_version/1")
    with pytest.raises(
        ValueError, match="mnist_784 has 2 examples, but more than the 10000 of its test part are wanted"
    ):
        read_table("mnist_784")


@pytest.mark.usefixtures("openml")
def test_no_network_gets_a_sentence():
    for source in ("mnist_784", "openml:unheard_of"):
        with pytest.raises(ValueError, match=f"^{source} cannot be had from OpenML: .*no network"):
            read_table(source)


@pytest.mark.usefixtures("openml")
def test_a_name_that_openml_has_not_gets_a_sentence(monkeypatch):
    def refuse(request):
        raise HTTPError(request.full_url, 412, "Precondition Failed", Message(), None)

    monkeypatch.setattr(_openml, "urlopen", refuse)
    with pytest.raises(ValueError, match=r"^openml:none cannot be had from OpenML: No active dataset none found"):
        read_table("openml:none")
