"""Runs on disk: a folder with settings, metrics and checkpoints, from which a run that was killed resumes bit for bit.

A run trains in pieces of some epochs. After each piece its `Record` logs the metrics and, when the last checkpoint is
old enough, writes another one. The optional packages are installed by `pip install 'jaxann[runs]'`: orbax for
checkpoints, tensorboardX for scalars, matplotlib for pictures.

In this example a run of 4 epochs is resumed to 8. Its parameters equal those of an uninterrupted run of 8 epochs:

```python
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import jax
import optax

from jaxann.data import Targets, load_dataset
from jaxann.data.batches import make_lanes
from jaxann.nn import mlp, relu
from jaxann.runs import Checkpoints, Folder, Record
from jaxann.training import Recipe
from jaxann.training.loop import Plan, begin, train_in_pieces

data = load_dataset("iris")
loss = Targets.fit("softmax_cross_entropy", len(data.classes), 0.0, data.train.t).make_loss()
recipe = Recipe(mlp((4, 10, 3), relu), loss, optax.adam(0.01), batch_size=16)
lanes = make_lanes(data.train, recipe.batch_size)


def train(folder, epochs):
    begun = begin(recipe, jax.random.key(0))
    record, progress = Record.open(folder, begun, tensorboard=False, seconds=0.0)  # a checkpoint after every piece
    with closing(record):
        for progress, rows in train_in_pieces(recipe, lanes, Plan(epochs, piece=2), progress):
            record.add(progress, rows)
    return progress


with TemporaryDirectory() as home:
    path = Path(home) / "run"
    with closing(Folder.create(path, config={"epochs": 4})) as folder:
        train(folder, epochs=4)
    with closing(Folder(path)) as folder:  # as another process does after this one was killed
        resumed = train(folder, epochs=8)
    with closing(Folder.create(Path(home) / "again", config={"epochs": 8})) as folder:
        uninterrupted = train(folder, epochs=8)

    print([row["epoch"] for row in Folder(path, reader=True).rows()])  # [1, 2, 3, 4, 5, 6, 7, 8]
    stored = Checkpoints(path / "checkpoints", reader=True)
    print(stored.epochs())  # [6, 8]
    best = stored.best(like=recipe.model.init(jax.random.key(1)))

assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), resumed.best, uninterrupted.best))
assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), resumed.best, best))
```

The folder of a run holds

| file | what it is |
|---|---|
| `config.json` | all settings, from which the same run can be made again, and the version of jaxann |
| `data.json` | columns, classes, the scaling of the features (fitted on the training part), a digest of the data |
| `metrics.jsonl`, `tensorboard/` | the loss of every epoch; loss and score on the validation part |
| `checkpoints/` | the last checkpoints, by default two |
| `result.json`, `curves.png`, `confusion.png` | the result at the end, and pictures of the metrics and predictions |
| `lock` | an empty file, which the process that writes has locked |

The command line stores all of them. In Python, `config.json` is what you give to `Folder.create`, `data.json` is up to
you, and `Record.end` writes the result and the pictures.

**Writing.** The folder appears together with its settings, or not at all. Rewritten files are replaced atomically, and
a line of the metrics that a kill has cut short is left out. Settings, results, pictures and checkpoints, with the
metrics up to them, survive a power cut. One process at a time writes: a second one that opens the folder for writing
gets an error of one sentence. Readers take no lock, and the lock of a killed process is free. A number that is not
finite is `null` in the metrics, because JSON has no such numbers.

**Checkpoints.** A checkpoint holds all that the rest of the run depends on: the parameters, the optimizer's state, the
random key, the epoch, and the best parameters so far with their score. Whenever the process is killed, a checkpoint is
complete or does not count. When it is read, its digest is checked. A damaged checkpoint raises an error of one sentence
that names the checkpoint before it. A checkpoint of another model raises an error that names the first leaf that
differs. With `origin`, a checkpoint also stores what identifies the run, and a checkpoint of another run is refused;
the command line stores the settings and a digest of `data.json`. `Checkpoints.restore(like, epoch)` reads an earlier
checkpoint. `restore` also refuses to continue a run for which JAX would now draw different random numbers. The command
line writes a checkpoint every 10 s.

**Resuming.** A resumed run takes the same steps as an uninterrupted one, bit for bit, wherever Ctrl-C, SIGTERM or
SIGKILL ended it. It continues at its last checkpoint, and computes the metrics of later epochs again. If it is asked
for more epochs than before, it ends as if so many had been asked for from the start, unless the learning rate follows a
schedule over them; the evaluation after the epoch that was the last one before still counts. In a run of several
processes, each process writes its part of the checkpoints, and the first one writes everything else. A run of version
0.1 whose table has a constant column, or numbers such as 1.0 as names of classes, is taken for one on different data.

**In Python.** `run = jaxann.load("runs/a")` reads the folder of a run of the command line: `run.predict(x)`,
`run.predict_proba(x)`, `run.model`, `run.params`, `run.history` and `run.settings`. `jaxann.save(path, model, params)`
stores any network in one file without a pickle, and `model, params = jaxann.load(path)` reads it.

- `Folder` creates, opens and locks the folder, and reads and writes its JSON files and metrics.
- `Checkpoints` saves and restores a run's `Progress`, and reads the best parameters to predict from.
- `Record` uses both for a run, and at its end writes the result and the pictures.
- The modules: `files` writes files atomically and reads JSON; `scalars` writes scalars for TensorBoard; `plots` draws
  metrics, confusion matrices and sweeps; `folder` also has `require_readable_version`, which refuses runs of newer
  versions of jaxann; `leaves` names the arrays of checkpoints; `late_errors` silences what orbax reports after it has
  failed; `network_file` stores a network in one file.
"""

from jaxann.runs.checkpoints import Checkpoints
from jaxann.runs.folder import Folder
from jaxann.runs.record import Record

__all__ = ["Checkpoints", "Folder", "Record"]
