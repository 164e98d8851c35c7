"""Training: one run, many runs at once, and runs on many devices.

A run is one compiled program. `jaxann.fit` draws the parameters, shuffles the examples before every epoch, and trains
with any optax optimizer and any gradient function: `gradient=backprop`, `autodiff` or a learning rule.

```python
import jax
import jax.numpy as jnp
import optax
from sklearn.datasets import load_iris

from jaxann import fit, predict
from jaxann.nn import CrossEntropy, mlp, softmax, tanh

x, labels = load_iris(return_X_y=True)
x = jnp.asarray((x - x.mean(axis=0)) / x.std(axis=0))
t = jnp.where(jnp.eye(3)[labels] > 0, 0.98, 0.01)

model, loss = mlp((4, 10, 3), tanh, softmax), CrossEntropy()
params, history = fit(model, loss, optax.adam(0.01), x, t, key=jax.random.key(0), epochs=40, batch_size=16)
print(f"loss {history.loss[0]:.2f} to {history.loss[-1]:.2f}")
print(f"accuracy {jnp.mean(predict(model, params, x).argmax(axis=1) == labels):.2f}")
```

Names stand for objects: `fit(model, "cross_entropy", "adam", x, t, learning_rate=0.01, key=0, ...)` is the same run.
With `validation=` (x, t) or a share of the examples, `fit` returns the parameters with the lowest validation loss, and
the history has that loss after every epoch. `patience=` ends the run when this loss no longer falls, and `params=`
starts from parameters instead of drawn ones:

```python
params, history = fit(
    model, loss, optax.adam(0.003), x, t, key=jax.random.key(1), epochs=40, batch_size=16,
    params=params, validation=0.2, patience=10,
)
print(f"validation loss {history.validation_loss[0]:.2f} to {history.validation_loss.min():.2f}")
```

| module | what is in it |
|---|---|
| `fit` | `fit`, `predict` and `evaluate` |
| `early_stopping` | the validation part of `fit(validation=...)`, and the run that keeps the best parameters |
| `recipe` | `Recipe`, `TrainState` and `History`; `run_epochs`, the pure function that goes from epoch to epoch |
| `divergence` | the epoch, step and layer where a run left the finite numbers |
| `loop` | a run in pieces, between which a program can evaluate, store and stop |
| `sweep` | `sweep` and `combinations`: many networks in one program |
| `chunks` | how many members of a sweep are trained at a time |
| `programs` | `Program`: a function that is compiled once for all calls that compute the same; several at once |
| `products` | small matrix products as sums, which are faster on a CPU |
| `text` | `generate`, which continues a text, and `evaluate_tokens` |
| `memory` | the check that the free memory is enough for a network, before anything is computed |
| `optimizers` | `optimizer` and `schedule`: those of optax by name, with clipping and decoupled weight decay |
| `second_order` | `kfac`, to be chained before an optimizer: `optax.chain(kfac(model, loss), optax.sgd(0.1))` |
| `devices`, `processes` | a run on several devices, and in several processes |

## Many networks

A sweep does the same run for many seeds and many values of numbers in its recipe, in one program. The networks are
trained together under `vmap`. On a CPU, large networks and those with convolutions are trained one after the other.
Each network is a member of the sweep, and `make` returns the recipe for a member's settings:

```python
from jaxann import sweep
from jaxann.data import Examples
from jaxann.training import Recipe, combinations
from jaxann.training.fit import evaluate_batch


def make(learning_rate, hidden):
    return Recipe(mlp((4, hidden, 3), tanh, softmax), loss, optax.adam(learning_rate), batch_size=16)


def accuracy(recipe, params, examples):
    y, _ = evaluate_batch(recipe.model, recipe.loss, params, examples)
    return jnp.mean(y.argmax(axis=1) == examples.t.argmax(axis=1))


train, test = Examples(x[::2], t[::2]), Examples(x[1::2], t[1::2])
members = combinations(seed=range(5), learning_rate=[0.003, 0.01, 0.03], hidden=[10, 30])
settings = {"epochs": 40, "traced": ["learning_rate"], "measure": accuracy, "measure_data": test}
for outcome in sweep(make, members, train, **settings):
    members[outcome.place]["accuracy"] = float(outcome.measured) if outcome.finite else None
print(max(members, key=lambda member: member["accuracy"] or 0))
```

Settings listed in `traced` vary inside one compiled program. Any other setting (here `hidden`) splits the sweep into
groups, and each group is compiled once. Any number that a recipe only computes with can be traced, such as a learning
rate, a dropout rate, label smoothing or weight decay.

A group is trained in chunks, of as many members as a CPU's caches or `budget` bytes of memory hold. The members of a
chunk are spread over all devices; call `cpu_devices(2)` first to use two cores of a CPU. Diverged members are marked
and do not affect the others. A member is the run that `fit` does with the key of its seed: in float64 its losses and
parameters agree with that run to 1e-12, and with those of the same member in any other sweep to 1e-13
(`tests/training/test_sweep.py`).

## Text

A network for text maps tokens [T] to logits for the tokens that come next. It learns with a loss at every position, and
`generate` continues a text by drawing one token after another:

```python
from jaxann.data.text_parts import load_text
from jaxann.nn import EachLoss, SoftmaxCrossEntropy, transformer
from jaxann.training import generate

parts = load_text("pydoc", context=16)  # the documentation that comes with Python
size, (x, t, _) = parts.tokenizer.size, parts.train
gpt, token_loss = transformer(size, 16, n=16, heads=2, blocks=1), EachLoss(SoftmaxCrossEntropy())
params, _ = fit(gpt, token_loss, "adam", x[:256], t[:256], key=0, epochs=2, batch_size=64, learning_rate=0.01)
prompt = parts.tokenizer.encode("The ")
print(parts.tokenizer.decode(generate(gpt, params, prompt, 20, context=16, key=jax.random.key(1))))
```

## Many devices

A mesh spreads every batch over its axis "data", and the outputs of every hidden layer over its axis "model":

```python
from jaxann.training.devices import make_mesh, shard_examples
from jaxann.training.loop import Plan, begin, train_in_pieces

mesh = make_mesh(data=len(jax.devices()), model=1)
recipe = make(0.01, hidden=10)
lanes, first = shard_examples(train, recipe.batch_size, mesh), begin(recipe, jax.random.key(0), mesh)
for progress, rows in train_in_pieces(recipe, lanes, Plan(epochs=6, piece=3, every=3), first):
    print(f"epoch {progress.state.epoch}: loss {rows[-1]['loss']:.3f}")
```

It is the same run as on one device. A batch takes one example from each lane, and a lane is on one device, so no
example moves: devices along "data" exchange only sums of gradients, in one all-reduce per step. A batch that does not
divide over the devices is filled up with examples of weight 0. On 8 devices of a CPU the losses of 20 steps agree with
those of one device to 3e-16 in float64 and 2e-7 in float32, for `backprop` and `autodiff`, for data and model devices
(`tests/training/test_devices.py`, which allows 1e-12 and 1e-6). A CPU counts as one device, unless `cpu_devices(count)`
or the environment variable `JAX_NUM_CPU_DEVICES` makes it several.

`train_in_pieces` works without a mesh too, on `make_lanes(train, recipe.batch_size)` of `jaxann.data.batches` and
`begin(recipe, key)`. It yields how far the run has come after each piece, at the speed of one program, and a run is the
same to the bit however it is cut.

`processes.join` makes several processes one run. Processes that Slurm or Open MPI starts find each other; any other
process must be given the address of process 0, the number of processes and its own number. All processes need the same
settings and all examples in their memory, but the devices of a process hold only their own part of the examples. If a
process is lost, the others end with an error message of one sentence and exit code 2, at once or after 20 s without a
sign of life. A process that does not find the others gives up after `connect_seconds`. A run that resumes from a
checkpoint is the same to the bit with as many processes as before, and up to rounding with any other number.

| you have | use |
|---|---|
| many small networks: seeds, or settings to choose from | a sweep, which also keeps all devices busy |
| one network with batches too large or too slow for a device | `make_mesh(data)` |
| layers too wide for a device | `make_mesh(data, model)` |
| devices in several machines | `processes.join`, under a launcher |

On several devices every step waits for the sum of all gradients, so a network whose steps are short trains more slowly.
"""

from jaxann.training.devices import cpu_devices
from jaxann.training.optimizers import optimizer, schedule
from jaxann.training.recipe import History, Recipe
from jaxann.training.second_order import kfac
from jaxann.training.sweep import combinations
from jaxann.training.text import generate

__all__ = ["History", "Recipe", "combinations", "cpu_devices", "generate", "kfac", "optimizer", "schedule"]
