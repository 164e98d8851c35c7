"""Checkpoints of a run, written by orbax, which the extra `checkpoints` installs.

Each holds all that the rest of the run depends on, with a digest; it is there whole or not at all, killed or not.
"""

from __future__ import annotations

import json
import logging
import sys
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from jaxann.training.devices import gather
from jaxann.training.loop import Progress
from jaxann.training.processes import is_lost

KEPT = 2  # the last one, and one to go back to


class Checkpoints:
    """The checkpoints in a folder, by epoch: the last two, of which each holds the best parameters so far too.

    A `reader` changes nothing in the folder, which may be that of a run in progress. Raises ImportError, with how to
    install it, without orbax.
    """

    def __init__(self, folder: Path, *, reader: bool = False) -> None:
        try:
            import orbax.checkpoint as ocp
        except ImportError:
            raise ImportError("checkpoints need orbax-checkpoint: pip install 'jaxann[checkpoints]'") from None
        _hush()
        self._ocp, self._folder = ocp, Path(folder)
        options = ocp.CheckpointManagerOptions(
            max_to_keep=KEPT,
            create=not reader,
            cleanup_tmp_directories=not reader,
            enable_async_checkpointing=False,
        )
        self._manager = ocp.CheckpointManager(self._folder.absolute(), options=options)

    def epochs(self) -> list[int]:
        """Of which there are checkpoints, from the first to the last."""
        return sorted(self._manager.all_steps())

    def save(self, standing: Progress) -> None:
        """Writes where a run stands; the one before the last goes when this is safe.

        Raises OSError where it cannot be written, as on a full disk.
        """
        epoch, trees = int(standing.state.epoch), {"state": _plain(standing.state), "best": _plain(standing.best)}
        about = {
            "best_score": standing.best_score,
            "best_epoch": standing.best_epoch,
            "shapes": {name: _shapes(tree) for name, tree in trees.items()},
            "digests": {name: _digest(gather(tree)) for name, tree in trees.items()},
        }
        about["digest"] = _digest_of(about)
        save, args = self._ocp.args.StandardSave, self._ocp.args
        try:
            items = {name: save(tree) for name, tree in trees.items()}
            self._manager.save(epoch, args=args.Composite(about=args.JsonSave(about), **items), force=True)
        except Exception as error:
            if is_lost(error):
                raise
            raise OSError(
                f"the checkpoint of epoch {epoch} cannot be written in {self._folder}: {_line(error)}"
            ) from None

    def restore(self, like: Progress, epoch: int | None = None) -> Progress:
        """Where the run stood after `epoch`, by default the last; what comes after that is forgotten.

        `like` is a standing of the same run, as `begin` makes it. Raises ValueError for a checkpoint that is not
        there, damaged (naming the one before it) or of another model.
        """
        epoch = self._one(epoch)
        trees, about = self._read(epoch, {"state": _plain(like.state), "best": _plain(like.best)})
        for later in self.epochs():
            if later > epoch:
                self._manager.delete(later)
        state, best = _filled(like.state, trees["state"]), _filled(like.best, trees["best"])
        return Progress(state, best, float(about["best_score"]), int(about["best_epoch"]))

    def best(self, like: PyTree, epoch: int | None = None) -> PyTree:
        """The best parameters that were known after `epoch`, by default the last; raises as `restore` does."""
        trees, _ = self._read(self._one(epoch), {"best": _plain(like)})
        return _filled(like, trees["best"])

    def _one(self, epoch: int | None) -> int:
        there = self.epochs()
        if not there:
            raise ValueError(f"there is no checkpoint in {self._folder}")
        if epoch is not None and epoch not in there:
            known = " and ".join(map(str, there))
            raise ValueError(f"there is no checkpoint of epoch {epoch} in {self._folder}, only of {known}")
        return there[-1] if epoch is None else epoch

    def _read(
        self, epoch: int, like: dict[str, dict[str, Array]]
    ) -> tuple[dict[str, dict[str, Array]], dict[str, Any]]:
        """The trees as they were saved, and what else was."""
        args, restore = self._ocp.args, self._manager.restore
        try:
            about = restore(epoch, args=args.Composite(about=args.JsonRestore()))["about"]
            if about.pop("digest", None) != _digest_of(about):
                raise ValueError("its description is not what was written")
            shapes = {name: about["shapes"][name] for name in like}
        except Exception as error:
            if is_lost(error):
                raise
            raise self._damaged(epoch, _line(error)) from None
        for name, tree in like.items():
            wanted, found = _shapes(tree), shapes[name]
            if differing := [leaf for leaf in {**wanted, **found} if wanted.get(leaf) != found.get(leaf)]:
                leaf = differing[0]
                raise ValueError(
                    f"the checkpoint of epoch {epoch} in {self._folder} is of another model: {name}{leaf} is "
                    f"{found.get(leaf, 'not there')}, but {wanted.get(leaf, 'none')} is wanted"
                )
        abstract = {
            name: {leaf: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding) for leaf, a in tree.items()}
            for name, tree in like.items()
        }
        try:
            items = {name: args.StandardRestore(tree) for name, tree in abstract.items()}
            trees = restore(epoch, args=args.Composite(**items))
            trees = {name: trees[name] for name in like}
        except Exception as error:
            if is_lost(error):
                raise
            raise self._damaged(epoch, _line(error)) from None
        if any(_digest(gather(tree)) != about["digests"][name] for name, tree in trees.items()):
            raise self._damaged(epoch, "its digest is not that of its content")
        return trees, about

    def _damaged(self, epoch: int, how: str) -> ValueError:
        before = [other for other in self.epochs() if other < epoch]
        offer = f"--checkpoint {before[-1]} takes the one before it" if before else "there is none before it"
        return ValueError(f"the checkpoint of epoch {epoch} in {self._folder} is damaged ({how}); {offer}")


def _plain(tree: PyTree) -> dict[str, Array]:
    """Every leaf by its path, random keys as the numbers that they are."""
    return {jax.tree_util.keystr(path): _data(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _data(leaf: Array) -> Array:
    return jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else jnp.asarray(leaf)


def _filled(like: PyTree, plain: dict[str, Array]) -> PyTree:
    """The tree that `_plain` took apart."""

    def leaf(path, old):
        new = plain[jax.tree_util.keystr(path)]
        is_key = jnp.issubdtype(old.dtype, jax.dtypes.prng_key)
        return jax.random.wrap_key_data(new, impl=jax.random.key_impl(old)) if is_key else new

    return jax.tree_util.tree_map_with_path(leaf, like)


def _shapes(tree: dict[str, Array]) -> dict[str, str]:
    return {path: f"{leaf.dtype}{list(leaf.shape)}" for path, leaf in tree.items()}


def _digest(tree: dict[str, Array]) -> str:
    digest = sha256()
    for path in sorted(tree):
        digest.update(path.encode() + np.asarray(tree[path]).tobytes())
    return digest.hexdigest()


def _digest_of(about: dict[str, Any]) -> str:
    return sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def _line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text if len(text) < 100 else text[:100] + ' ...'}"


@cache
def _hush() -> None:
    """What orbax raises is enough; what its other threads and tasks say of it, some later, would bury the sentence."""
    logging.getLogger("absl").addFilter(lambda record: "_SignalingThread" not in str(record.msg))
    logging.getLogger("asyncio").addFilter(lambda record: "orbax" not in record.getMessage())
    hook = sys.unraisablehook

    def of_orbax(found: Any) -> bool:
        source = getattr(getattr(found.object, "cr_code", None), "co_filename", "")
        return "orbax" in source or "Event loop is closed" in str(found.exc_value)

    sys.unraisablehook = lambda found: None if of_orbax(found) else hook(found)
