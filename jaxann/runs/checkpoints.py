"""Checkpoints of a run, written by orbax, which the extra `checkpoints` installs.

A checkpoint holds everything that the rest of the run depends on, with a digest. A killed process leaves a complete
checkpoint or none.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from hashlib import sha256
from math import inf
from pathlib import Path
from typing import Any

import jax
from jaxtyping import Array, PyTree

from jaxann.data.extras import require_packages
from jaxann.data.files import join_names
from jaxann.nn.hyperparameters import validate_number
from jaxann.nn.text import describe_value
from jaxann.runs.files import finite_or_none, sync_folder
from jaxann.runs.late_errors import hush_late_errors
from jaxann.runs.leaves import compute_digest, describe_shapes, flatten, unflatten
from jaxann.training.devices import gather
from jaxann.training.loop import Progress
from jaxann.training.processes import is_lost

KEEP = 2  # by default the last checkpoint, and an earlier one to go back to


class Checkpoints:
    """The checkpoints in a folder, by epoch. The last ones are kept, and each holds the best parameters so far as well.

    Args:
        folder: The folder, which is made if it does not exist.
        origin: What identifies the run: JSON objects by the names of the files that store them, such as the settings
            for "config.json". Each checkpoint stores them. A checkpoint is refused, as one of another run, if it
            stores another value for an entry. An entry that only one of the two has is not compared.
        reader: Whether to only read and to leave the folder, perhaps that of a run in progress, as it is.
        keep: How many checkpoints to keep, at least 1. An older one is deleted only after a new one is on the disk, so
            that with any number a killed process leaves a complete checkpoint. With 1 no earlier checkpoint is left to
            go back to where the last one is damaged.

    Raises:
        SettingError: If `keep` is not an integer of at least 1. It is a ValueError.
        ImportError: If orbax is not installed; the message says how to install it.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        origin: Mapping[str, Mapping[str, Any]] | None = None,
        reader: bool = False,
        keep: int = KEEP,
    ) -> None:
        validate_number("keep", keep, least=1, integer=True)
        require_packages("a checkpoint", "orbax.checkpoint")
        import orbax.checkpoint as ocp

        self._ocp, self._folder, self._reader, self._keep = ocp, Path(folder), reader, keep
        self._origin: dict[str, dict[str, Any]] = json.loads(json.dumps(origin or {}))
        options = ocp.CheckpointManagerOptions(
            max_to_keep=None,  # because orbax deletes older checkpoints before the new one is on the disk
            create=not reader,
            cleanup_tmp_directories=not reader,
            enable_async_checkpointing=False,
        )
        self._manager = ocp.CheckpointManager(self._folder.absolute(), options=options)

    def epochs(self) -> list[int]:
        """Returns the epochs of the checkpoints, in ascending order."""
        if self._reader:
            self._manager.reload()  # another process may have written and deleted checkpoints
        return sorted(self._manager.all_steps())

    def save(self, progress: Progress) -> None:
        """Writes a checkpoint. Once it is on the disk, all but the last `keep` are deleted.

        Args:
            progress: Where the run stands.

        Raises:
            OSError: If the checkpoint cannot be written, as on a full disk.
            Exception: Whatever JAX raises if another process of the run is lost.
        """
        trees = {"state": flatten(progress.state), "best": flatten(progress.best)}
        self._write(int(progress.state.epoch), trees, progress.best_score, progress.best_epoch)

    def save_best(self, params: PyTree, epoch: int) -> None:
        """Writes a checkpoint of the best parameters alone, which suffices to predict but not to resume the run.

        Args:
            params: The parameters.
            epoch: The epoch after which the run had them, which is that of the checkpoint as well.

        Raises:
            OSError: If the checkpoint cannot be written, as on a full disk.
        """
        self._write(epoch, {"best": flatten(params)}, -inf, epoch)

    def _write(self, epoch: int, trees: dict[str, dict[str, Array]], best_score: float, best_epoch: int) -> None:
        about = {
            "best_score": finite_or_none(best_score),
            "best_epoch": best_epoch,
            "origin": self._origin,
            "random": describe_generator(),
            "shapes": {name: describe_shapes(tree) for name, tree in trees.items()},
            "digests": {name: compute_digest(gather(tree)) for name, tree in trees.items()},
        }
        about["digest"] = _digest_of(about)
        args = self._ocp.args
        try:
            items = {name: args.StandardSave(tree) for name, tree in trees.items()}
            with hush_late_errors():
                self._manager.save(epoch, args=args.Composite(about=args.JsonSave(about), **items), force=True)
        except Exception as error:
            if is_lost(error):
                raise
            reason = _summarize(error)
            raise OSError(f"the checkpoint of epoch {epoch} cannot be written in {self._folder}: {reason}") from None
        _sync_tree(self._folder / str(epoch))
        for older in self.epochs()[: -self._keep]:
            self._manager.delete(older)

    def restore(self, like: Progress, epoch: int | None = None) -> Progress:
        """Reads a checkpoint and deletes all later ones, which the resumed run will write again.

        Args:
            like: The progress of the same run at any time, such as the result of `begin`. The restored progress has
                its structure, shapes, dtypes and devices.
            epoch: The epoch of the checkpoint, by default the last.

        Returns:
            Where the run stood after that epoch, to the bit.

        Raises:
            ValueError: If the checkpoint does not exist, is damaged, is of another model or another run, or holds the
                best parameters alone, or if JAX would draw other random numbers than before. The message names what
                differs, or the checkpoints that can be used instead.
            Exception: Whatever JAX raises if another process of the run is lost.
        """
        epoch = self._find_epoch(epoch)
        trees, about = self._read(epoch, {"state": flatten(like.state), "best": flatten(like.best)})
        for name, value in about.get("random", {}).items():  # older checkpoints do not have it
            if (now := describe_generator().get(name)) != value:
                raise ValueError(
                    f"expected {name.upper()} to be {value}, as when the checkpoint of epoch {epoch} in {self._folder} "
                    f"was written, got {now}, with which the rest of the run would draw other random numbers"
                )
        for later in self.epochs():
            if later > epoch:
                self._manager.delete(later)
        state, best = unflatten(like.state, trees["state"]), unflatten(like.best, trees["best"])
        score = -inf if about["best_score"] is None else float(about["best_score"])
        if not about["best_epoch"]:  # an older version kept the untrained parameters as long as no score was finite
            return Progress(state, state.params, -inf, int(state.epoch))
        return Progress(state, best, score, int(about["best_epoch"]))

    def best(self, like: PyTree, epoch: int | None = None) -> PyTree:
        """Reads the best parameters that were known after an epoch.

        A run in progress may write later checkpoints and delete the last one while that is being read. In that case
        the new last checkpoint is read.

        Args:
            like: Parameters of the same model.
            epoch: The epoch of the checkpoint, by default the last.

        Returns:
            The parameters, with the structure, shapes, dtypes and devices of `like`.

        Raises:
            ValueError: As `restore` does.
        """
        while True:
            latest = self._find_epoch(epoch)
            try:
                trees, about = self._read(latest, {"best": flatten(like)})
            except ValueError:
                if epoch is not None or latest == max(self.epochs(), default=None):
                    raise
                continue
            if not about["best_epoch"]:
                raise ValueError(
                    f"expected trained parameters in the checkpoint of epoch {latest} in {self._folder}, "
                    "got those of epoch 0, because no score was finite"
                )
            return unflatten(like, trees["best"])

    def _find_epoch(self, epoch: int | None) -> int:
        """Returns the epoch of the checkpoint to read."""
        epochs = self.epochs()
        if not epochs:
            raise ValueError(f"expected a checkpoint in {self._folder}, got none")
        if epoch is not None and epoch not in epochs:
            first = join_names(list(map(str, epochs[:-1])), 20)
            stored = " and ".join(filter(None, (first, str(epochs[-1]))))
            raise ValueError(f"expected a checkpoint of epoch {epoch} in {self._folder}, got those of {stored}")
        return epochs[-1] if epoch is None else epoch

    def _read(
        self, epoch: int, like: dict[str, dict[str, Array]]
    ) -> tuple[dict[str, dict[str, Array]], dict[str, Any]]:
        """Returns the trees as they were saved, and their description."""
        args, restore = self._ocp.args, self._manager.restore
        try:
            with hush_late_errors():
                about = restore(epoch, args=args.Composite(about=args.JsonRestore()))["about"]
            if about.pop("digest", None) != _digest_of(about):
                raise ValueError("the digest of its description differs from the stored one")
            shapes = {name: about["shapes"].get(name) for name in like}
        except Exception as error:
            if is_lost(error):
                raise
            raise self._make_damage_error(epoch, _summarize(error)) from None
        self._require_same_origin(epoch, about.get("origin", {}))
        if None in shapes.values():
            raise ValueError(
                f"expected a checkpoint from which a run goes on, got that of epoch {epoch} in {self._folder}, which "
                "holds the best parameters alone, to predict with"
            )
        for name, tree in like.items():
            self._require_same_shapes(epoch, name, describe_shapes(tree), shapes[name])
        abstract = {
            name: {leaf: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding) for leaf, a in tree.items()}
            for name, tree in like.items()
        }
        try:
            items = {name: args.StandardRestore(tree) for name, tree in abstract.items()}
            with hush_late_errors():
                trees = restore(epoch, args=args.Composite(**items))
            trees = {name: trees[name] for name in like}
        except Exception as error:
            if is_lost(error):
                raise
            raise self._make_damage_error(epoch, _summarize(error)) from None
        if any(compute_digest(gather(tree)) != about["digests"][name] for name, tree in trees.items()):
            raise self._make_damage_error(epoch, "the digest of its content differs from the stored one")
        return trees, about

    def _require_same_origin(self, epoch: int, stored: dict[str, dict[str, Any]]) -> None:
        for file, content in self._origin.items():
            before = stored.get(file, {})  # older checkpoints have no origin
            for name in (name for name in content if name in before and content[name] != before[name]):
                raise ValueError(
                    f"expected the {file} with which the checkpoint of epoch {epoch} in {self._folder} was written, "
                    f"got one whose {name} is {describe_value(content[name])}, not {describe_value(before[name])}"
                )

    def _require_same_shapes(self, epoch: int, name: str, expected: dict[str, str], stored: dict[str, str]) -> None:
        for leaf in {**expected, **stored}:
            shape, stored_shape = expected.get(leaf, "no such leaf"), stored.get(leaf, "no such leaf")
            if shape != stored_shape:
                raise ValueError(
                    f"expected {shape} for {name}{leaf}, got {stored_shape}: the checkpoint of epoch {epoch} in "
                    f"{self._folder} is of another model"
                )

    def _make_damage_error(self, epoch: int, reason: str) -> ValueError:
        earlier = [other for other in self.epochs() if other < epoch]
        rest = f"the one of epoch {earlier[-1]} is still there" if earlier else "no earlier one is left"
        return ValueError(f"the checkpoint of epoch {epoch} in {self._folder} is damaged ({reason}); {rest}")


def _digest_of(about: dict[str, Any]) -> str:
    return sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def describe_generator() -> dict[str, Any]:
    """Returns the settings of JAX that determine the random numbers drawn from a key."""
    names = ("jax_default_prng_impl", "jax_threefry_partitionable")
    return {name: getattr(jax.config, name) for name in names}


def _sync_tree(path: Path) -> None:
    """Waits until a folder and all that it holds are on the disk, so that they survive a power cut."""
    for folder, _, files in os.walk(path):
        for name in files:
            with (Path(folder) / name).open("r+b") as file:  # Windows synchronizes only what may be written
                os.fsync(file.fileno())
        sync_folder(folder)
    sync_folder(path.parent)


def _summarize(error: Exception) -> str:
    """Returns the type of an error and the beginning of its message, in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text if len(text) < 100 else text[:100] + ' ...'}"
