"""The command `jaxann`: programs that train, sweep, predict and check gradients.

```sh
jaxann train iris --hidden 8 --epochs 30 --batch-size 16 --run runs/iris
jaxann train --resume runs/iris --epochs 60
jaxann predict runs/iris --input flowers.csv --output kinds.csv
jaxann sweep --hidden 8 --epochs 5 --batch-size 16 --grid learning_rate=0.1,0.5 --seeds 2 --out runs/sweep
jaxann gradcheck --hidden 8 --loss softmax_cross_entropy
jaxann audit jax.nn:softplus --shapes 3,4
```

- `jaxann train` trains one network, and prints its scores on the test part beside those of a baseline. Its run folder
  stores settings, metrics, checkpoints and pictures, and a run that was interrupted goes on from there. With `--keep 5`
  the folder keeps the last five checkpoints, each of which `--checkpoint EPOCH` names to resume or to predict from.
- `jaxann sweep` trains a network for every combination of a grid's settings and every seed, and ranks the combinations.
  With `--top 1 --out runs/sweep` it retrains the networks of the best combination and keeps each as a run folder, such
  as `runs/sweep/top/1-seed0`, which `jaxann predict` and `jaxann.load` take.
- `jaxann predict` predicts from new examples with the best parameters of a run.
- `jaxann gradcheck` compares the handwritten gradients of such a network, or of a layer or a function of your own, with
  autodiff and finite differences.
- `jaxann audit` judges every custom derivative inside a JAX program of yours, such as the loss of a Flax or an Equinox
  model. Its arguments come from a module (`--args MODULE:NAME`) or are random (`--shapes`).

`jaxann train table.csv --target churn` needs no other setting: a preset gives defaults that suit a table, and flags
override them. For iris the defaults are those of the derivation, which `Settings()` has in Python, too. In Python,
`Settings(dataset="table.csv", **TABLE)` has the preset of `jaxann.cli.presets`.

`--network` chooses what is trained: mlp for all data but text, lenet or resnet for images, gru or lstm for sequences,
and gru, lstm or transformer for text. Where no dataset is named, lenet and resnet train on digits, and gru, lstm and
transformer on the documentation that comes with Python. `--crop` and `--flip` change images at random in every batch.
A run of text prints a sample at every evaluation, and `jaxann predict RUN --prompt "The "` continues a prompt. Runs,
sweeps, checks and devices are the same for all networks.

`jaxann COMMAND --help` lists the settings of a command. `python -m jaxann` is the same command, and
`scripts/COMMAND.py` starts the same programs from a checkout. Bad input gets one sentence on stderr and exit code 2,
and so does output that cannot be written. A command line that cannot be parsed gets a usage error and exit code 2.

`jaxann audit MODULE:FUNCTION`, `jaxann gradcheck --layer MODULE:CLASS` and `--function MODULE:FORWARD,BACKWARD` import
the module, which may lie in the current folder, and this runs its code. Name only code that you trust. Functions that
you name are called. An object that you name as a layer is called only if it is a subclass of `jaxann.nn.Layer`.

Names from data, such as those of classes and columns, are printed with their control characters as escapes.
`jaxann predict` writes them into a .csv file exactly as they are. If the file is for a spreadsheet, `--safe-csv` keeps
names that begin like a formula from being run as one.

In Python, `Settings` holds the settings of a run, `prepare` makes the data, the network and the plan of the run,
and `run` trains it:

```python
from jaxann.cli.settings import Settings
from jaxann.cli.task import prepare
from jaxann.cli.train import run

settings = Settings(dataset="iris", hidden=(8,), epochs=30, batch_size=16, precision="float64")
outcome = run(prepare(settings), settings)
print(f"accuracy {outcome.score:.2f} after {outcome.steps} steps")
```
"""

__all__: list[str] = []
