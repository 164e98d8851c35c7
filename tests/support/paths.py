"""Where the project's files lie, and the environment of a process that imports the package from there."""

import os
from pathlib import Path

TOP = Path(__file__).parents[2]
SCRIPTS = TOP / "scripts"
ENVIRONMENT = os.environ | {"PYTHONPATH": str(TOP)}
