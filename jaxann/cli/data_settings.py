"""The settings of a run that describe its data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

# Settings about the columns of a table, which text does not have.
COLUMNS = ("target", "weights", "header", "ignore", "id", "categorical", "numeric", "kind")

Preset: TypeAlias = Literal["derivation", "table", "images", "sequences", "text"]


@dataclass(frozen=True)
class DataSettings:
    """The settings of a run that describe its data."""

    dataset: str = "iris"
    """Data to learn from, which is one of:
    iris, wine, breast_cancer, digits, diabetes (of scikit-learn);
    mnist_784, Fashion-MNIST, CIFAR_10, openml:NAME (downloaded once);
    a text, Excel or Parquet file with named columns; an .npz file with the arrays x [N, ...] and t [N];
    a folder with MNIST's IDX files;
    mnist1d, short sequences that the package mnist1d makes;
    for the networks gru, lstm and transformer a .txt file, or pydoc, the documentation that comes with Python.
    It may also be the first argument, without the flag."""
    preset: Preset | None = None
    """Defaults of the settings below, as listed above. By default text for transformer, and for gru and lstm on a .txt
    file or pydoc; sequences for gru and lstm on other data; images for lenet and resnet; derivation for iris;
    and table for all other data."""
    target: str | None = None
    """Column that is predicted. By default the last one."""
    weights: str | None = None
    """Column that says how much each example counts. By default all examples count alike."""
    header: Literal["first", "none"] | None = None
    """Whether the first line of a text file holds the names of the columns (first) or an example (none).
    By default it holds names, and a line that may hold an example is refused."""
    ignore: tuple[str, ...] = ()
    """Columns to leave out."""
    id: tuple[str, ...] = ()
    """Columns that identify examples. They are left out, and predictions carry them."""
    categorical: tuple[str, ...] = ()
    """Columns to read as categories. By default they are those whose cells are mostly text."""
    numeric: tuple[str, ...] = ()
    """Columns to read as numbers. By default they are those whose cells are mostly numbers."""
    kind: Literal["classes", "numbers"] | None = None
    """Whether the targets are classes or numbers.
    By default text is read as classes, and so are whole numbers with at most 20 different values."""
    held_out: float | None = None
    """Share of the examples that is set apart as the test part.
    By default the dataset's own test part is used, or a share of 0.2 if it has none.
    Of a text, the end is set apart, by default a share of 0.1."""
    validation: float = 0.0
    """Share of the other examples that is set apart as the validation part. With 0 there is no such part.
    The network is evaluated on it during training, and the best parameters are kept."""
    scaling: Literal["feature", "all", "none"] = "feature"
    """How features are standardized, by mean and standard deviation of the training part.
    feature: each by its own; all: all features by the same, which suits images; none: not at all."""
    crop: int = 0
    """Largest number of pixels by which images are moved along both axes. Every step draws new numbers."""
    flip: bool = False
    """Whether each image of a batch is mirrored, left and right, with probability 1/2, drawn anew in every step."""
    context: int = 128
    """Number of tokens of text that a network sees at once."""
    tokenizer: str | None = None
    """File of the package tokenizers, a .json file, that splits text into tokens. By default tokens are characters."""
