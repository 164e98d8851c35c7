"""Measures the speed of two things in turn, and prints the median ratio over many rounds.

notebook: 4-50-20-10-3 on Iris, batch 2, 500 epochs in one compiled run, against peers that step it in their usual loop.
gradient: handwritten against autodiff in a training step of 784-512-512-10: time, memory and time to compile.
layers: the same for convolutional, recurrent and attending networks, also inside a compiled loop, in which XLA:CPU
computes autodiff's convolutions many times slower; and the cost of norms and of the clipped mean of their examples.
images: training of convolutional networks in images per second, against autodiff and against the peers' usual loops.
text: a transformer on the documentation of Python, against the same network in Flax: steps, and bits per character.
sweep: a thousand small networks on Iris in one program, on one and on two devices of a CPU, against scikit-learn, which
trains one network after the other; and the memory that a sweep of 4,096 larger networks takes.
per_example: norms, noise scale and clipped mean of 512 examples in 784-512-512-10, against the mean gradient alone; the
clipped mean, and norms and clipped mean of 128 images in LeNet, against other libraries in each of their modes.
script: `train.py` without arguments, as a process of its own with nothing cached, against the time it should take.
check: the gradient check in a new process, from the call to its report, against the time it should take.
folder: a run on Iris with a run folder against one without, and a larger run in pieces against one program.
epoch: 60,000 x 784 through 784-512-512-10 in batches of 128, against a matrix product and the peers' epochs.

Each peer's version is printed. Peers that are not installed are left out, and a line says so. A missed target is a
finding, not an error.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import jax
import tyro
from gradients import measure_per_example
from images import measure_images
from layers import measure_layers
from measurement import Row
from networks import measure_epoch, measure_gradient, measure_notebook
from programs import measure_check, measure_folder, measure_script
from settings import BenchmarkSettings, Section
from sweeps import measure_sweep
from text import measure_text

from jaxann.nn.table import format_table
from jaxann.runs.files import format_json, read_json, require_new_file, write_file
from jaxann.training import cpu_devices

SECTIONS: dict[Section, Callable[[BenchmarkSettings], list[Row]]] = {
    "notebook": measure_notebook,
    "gradient": measure_gradient,
    "layers": measure_layers,
    "images": measure_images,
    "text": measure_text,
    "sweep": measure_sweep,
    "per_example": measure_per_example,
    "script": measure_script,
    "check": measure_check,
    "folder": measure_folder,
    "epoch": measure_epoch,
}


def main(settings: BenchmarkSettings) -> None:
    """Prints the device and a table for each section."""
    before = None if settings.compare is None else read_results(settings.compare)
    if settings.json is not None:
        require_new_file(settings.json)
    cpu_devices(2)  # all sections but the sweep use one
    jax.config.update("jax_enable_compilation_cache", False)  # with the cache, compiling would be a look-up
    device = jax.devices()[0]
    print(f"jax {jax.__version__} on {device.platform} ({device.device_kind})")
    results: dict[str, list[Row]] = {}
    for section in settings.sections:
        rows = results[section] = SECTIONS[section](settings)
        head = (section, "measured", "ratio", "quartiles", "target", "")
        print(format_table([head, *(row.cells() for row in rows)]), end="\n\n", flush=True)
    if settings.json is not None:
        sections = {name: [row._asdict() for row in rows] for name, rows in results.items()}
        write_file(settings.json, format_json({"machine": describe_machine(), "sections": sections}), new=True)
    if before is not None:
        print("\n".join(list_worse(before, results)) or "nothing became worse")


def describe_machine() -> dict[str, str]:
    """Returns the versions and the hardware on which the figures were measured."""
    packages = {name: version(name) for name in ("jaxann", "jax", "jaxlib", "numpy", "optax")}
    device = jax.devices()[0]
    hardware = {"device": f"{device.platform} ({device.device_kind})", "cores": str(os.cpu_count())}
    return packages | {"python": platform.python_version(), "system": platform.platform()} | hardware


def read_results(path: Path) -> dict[str, list[Row]]:
    """Reads the figures of a file of --json.

    Raises:
        ValueError: If the file cannot be read, or holds something else.
    """
    content = read_json(path)
    try:
        return {section: [Row(**row) for row in rows] for section, rows in content["sections"].items()}
    except (TypeError, KeyError, AttributeError):
        raise ValueError(f"expected a file that --json wrote, got {path}") from None


def list_worse(before: dict[str, list[Row]], now: dict[str, list[Row]]) -> list[str]:
    """Returns a line for each figure that became worse, among those that both measurements have."""
    known = {(section, row.what): row for section, rows in before.items() for row in rows}
    lines = []
    for section, rows in now.items():
        for row in rows:
            old = known.get((section, row.what))
            if old is not None and row.worsens(old):
                was, is_now = (f"{r.ratio:.4g} ({r.low:.3g} to {r.high:.3g})" for r in (old, row))
                lines.append(f"worse: {section}: {row.what}: {was} before, {is_now} now")
    return lines


if __name__ == "__main__":
    main(tyro.cli(BenchmarkSettings, description=__doc__))
