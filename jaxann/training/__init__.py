"""Whole runs and sweeps as one program."""

from jaxann.training.devices import cpu_devices
from jaxann.training.optimizers import optimizer, schedule
from jaxann.training.recipe import History, Recipe
from jaxann.training.second_order import kfac
from jaxann.training.sweep import combinations

__all__ = ["History", "Recipe", "combinations", "cpu_devices", "kfac", "optimizer", "schedule"]
