"""Tables of examples: reading them, splitting them, standardizing them, and encoding their targets for a loss.

`load_dataset` reads a table, checks every cell, splits it into training, validation and test parts, makes features of
its columns, and standardizes them. It fits medians, categories, means and standard deviations to the training part
alone. `Targets` converts the targets of the table to those of a loss, and a network's outputs back to predictions.

```python
import jax
import optax

from jaxann import fit, predict
from jaxann.data import Targets, load_dataset
from jaxann.nn import mlp, relu

data = load_dataset("iris", held_out=0.25, validation=0.2, seed=1)
print([len(part.x) for part in (data.train, data.validation, data.test)])  # [89, 23, 38]
targets = Targets.fit("softmax_cross_entropy", len(data.classes), smoothing=0.1, t=data.train.t)

model, loss = mlp((len(data.columns), 20, targets.outputs), relu), targets.make_loss()
x, t = data.train.x, targets.encode(data.train.t)
params, history = fit(model, loss, optax.adam(0.01), x, t, key=jax.random.key(0), epochs=50, batch_size=16)

y = jax.device_get(predict(model, params, data.test.x))
print("accuracy", (targets.decode(y) == data.test.t).mean())
print("most likely", data.classes[targets.probabilities(y)[0].argmax()])
```

The source of a table is one of these:

- scikit-learn's "iris", "wine", "breast_cancer" and "digits", whose targets are classes, and "diabetes", whose targets
  are numbers;
- "mnist_784", "Fashion-MNIST", "CIFAR_10" and "openml:NAME", which are fetched once, into scikit-learn's cache;
- "mnist1d", sequences that a package makes: `pip install 'jaxann[sequences]'`;
- a file with named columns; its last column holds the targets unless `target` names another. It may be text with any
  common separator, encoding and compression (.csv, .tsv, .txt, .csv.gz), Excel (.xlsx) or Parquet (.parquet); the last
  two need `pip install 'jaxann[tables]'`;
- an .npz file with arrays x and t, and optionally x_test, t_test, weights, classes (their names) and columns (the names
  of the features, by which a file to predict from is then ordered); the first four may also be called x_train, y_train,
  x_test and y_test, and x may have any shape [N, ...];
- a folder of IDX files named as those of MNIST are, plain or as .gz.

Columns of a file are numbers, dates or categories, as their cells or `columns` say. A missing number becomes the median
of the training part, and another feature says that it was missing. Dates become days. A category has a feature of its
own unless it is rare. A category that the training part lacks has none. Digits that begin with 0, as ZIP codes do, are
categories. Columns are left out, and `Dataset.encoding` says why, if they have the name and the numbers of an
identifier, or hold texts that are all rare, nothing, or one text. Rows without a target are left out, too, and
`Dataset.notes` says how many.

The features of an example stand in one row, and `Dataset.shape` says which shape they have in an image or a sequence.

Targets that are text are read as classes, and so are integers with at most 20 distinct values, unless `kind` says
otherwise. The name of a class is its text in the file, so that 01 and 1 are two classes. Splits are random but depend
on `seed` alone, and every part has the classes in the same proportions. A source with a test part of its own keeps it,
and `held_out` must then be left out. Images are best scaled by one mean and one standard deviation: `scaling="all"`.
Examples of weight 0 are left out.

Data and settings that do not fit raise an error of one sentence before anything is trained, such as "expected a finite
number in flowers.csv, row 3, column width, got 'red'" or "expected held_out between 0 and 1, excluding 0 and 1, got
1.5".

`text_parts.load_text` reads text: windows of tokens, and the token that follows each of them. `tokens` has the ways
from text to tokens and back.

- `Augmentation` moves and mirrors images at random: `fit(..., augment=Augmentation((28, 28, 1), crop=2))`.
- `Dataset` is what `load_dataset` returns: up to three `Examples`, the names of classes and columns, and the `encoding`
  and the `scaling`, which make features to predict from in the same way.
- `ColumnSettings` says which columns to leave out, and which are categories or numbers.
- `Encoding` makes features of the columns of a table: `data.encoding.encode_new("new.csv", frame)`.
- `Examples` are features, targets and weights, as NumPy or JAX arrays.
- `Targets` encodes targets as the loss takes them: smoothed distributions over the classes, labels, signs, counts or
  standardized numbers.
- The modules: `tables` reads tables of all kinds; `frames` reads files with named columns, `text_files` those of text,
  `archives` .npz files, `images` IDX files and `openml` datasets of OpenML; `mnist1d` makes MNIST-1D; `files` has the
  checks that they share; `columns` decides what columns are, `categories` which categories are frequent, and `encoding`
  makes features of them; `labels` decides which targets are classes; `splits` has `load_dataset`; `scaling`
  standardizes features and targets; `numbers` makes arrays of tables of pandas; `validation` checks arrays against a
  model and a loss; `batches` lays examples out in lanes, and a batch takes one example from each lane; `augmentation`
  changes images; `text_parts` and `tokens` are for text; `extras` says how to install optional packages.
"""

from jaxann.data.augmentation import Augmentation
from jaxann.data.batches import Examples
from jaxann.data.column_settings import ColumnSettings
from jaxann.data.encoding import Encoding
from jaxann.data.splits import Dataset, load_dataset
from jaxann.data.targets import Targets

__all__ = ["Augmentation", "ColumnSettings", "Dataset", "Encoding", "Examples", "Targets", "load_dataset"]
