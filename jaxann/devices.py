"""The devices of a run: a mesh of them, and a run's examples and parameters laid out over it.

What a step then exchanges, JAX's partitioner adds: with the batch over "data" the sum of its gradients, with the
outputs of wide layers over "model" their activations.
"""

from __future__ import annotations

import os

import jax


def cpu_devices(count: int) -> None:
    """Lets a CPU count as `count` devices, at most one a core, where JAX_NUM_CPU_DEVICES has not said how many.

    Only before JAX's first computation: later the devices are what they are.
    """
    if "JAX_NUM_CPU_DEVICES" not in os.environ:
        try:
            jax.config.update("jax_num_cpu_devices", min(count, len(os.sched_getaffinity(0))))
        except RuntimeError:  # it has computed
            pass
