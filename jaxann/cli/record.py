"""The record of a run that the command line trains: its folder, and the progress that a resumed run goes on from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from jaxann.cli.description import DataDescription, describe_origin
from jaxann.cli.errors import require_optional_packages
from jaxann.cli.settings import Settings
from jaxann.cli.task import Task
from jaxann.nn.hyperparameters import SettingError
from jaxann.runs.folder import Folder
from jaxann.runs.record import Record
from jaxann.training.loop import Progress
from jaxann.training.processes import is_first, run_first_then_others


def check_folder(settings: Settings) -> None:
    """Checks that a run can have the folder that it asks for, as far as this can be seen before the folder is opened.

    Raises:
        ValueError: If the run is not to be resumed, but there is a run in the folder.
        ImportError: If a package that the record needs is missing.
    """
    if settings.resume is None and settings.run is None:
        return
    refusable = {"tensorboardX": "--no-tensorboard"} if settings.tensorboard else {}
    refusable |= {"matplotlib.figure": "--no-plots"} if settings.plots else {}
    require_optional_packages("a run folder", ("orbax.checkpoint",), refusable)
    if settings.run is not None and not settings.distributed:  # another process may have made the folder already
        require_new_folder(settings.run)


def require_new_folder(path: Path) -> None:
    """Checks that there is no run in a folder.

    Raises:
        ValueError: If there is one.
    """
    if (path / "config.json").exists():
        raise SettingError("run", f"to be a new folder (--resume {path} continues the run in it)", path)


def open_record(task: Task, settings: Settings, progress: Progress) -> tuple[Record | None, Progress]:
    """Opens the record of a run, in a new folder or in the folder of the run that is resumed.

    Args:
        task: The task of the run.
        settings: The settings, which say where the folder is.
        progress: The progress of a run before its first epoch.

    Returns:
        The record, or None if the run has no folder, and the progress from which the run goes on.

    Raises:
        ValueError: If the folder cannot be used, or if the run in it has other data or already more epochs.
    """
    path = settings.resume or settings.run
    if path is None:
        return None, progress
    if task.data.validation is not None:
        settings = replace(settings, evaluate_every=task.plan.every)  # to keep it when the run gets more epochs
    description = DataDescription.from_task(task)
    if settings.resume is not None:
        description = description.like(DataDescription.read(Folder(path, reader=True)))
    options: Any = {"tensorboard": settings.tensorboard, "seconds": settings.checkpoint_seconds}
    options |= {"keep": settings.keep, "origin": describe_origin(settings, description)}

    def create_folder() -> Folder:
        require_new_folder(path)
        return Folder.create(path, config=settings.to_json(), data=description.to_json())

    if settings.resume is None:
        folder = run_first_then_others(create_folder, lambda: Folder(path, reader=True))
        return Record.open(folder, progress, **options)
    folder = run_first_then_others(lambda: Folder(path), lambda: Folder(path, reader=True))
    try:
        DataDescription.read(folder).require_same(path, description)
        rows = folder.rows()[-1:] if settings.checkpoint is None else [{"epoch": settings.checkpoint}]
        if rows and settings.epochs < rows[0]["epoch"]:
            expectation = f"of at least {rows[0]['epoch']}, which the run has reached"
            raise SettingError("epochs", expectation, settings.epochs)
        record, progress = Record.open(folder, progress, settings.checkpoint, **options)
        if is_first():
            folder.write("config", settings.to_json())
    except Exception:
        folder.close()
        raise
    return record, progress


def find_stored(settings: Settings) -> Path | None:
    """Returns the file with the settings that the command line completes, or None if it names neither a run nor a file.

    Raises:
        ValueError: If there is no run, or if the settings that name the file do not fit together.
    """
    path = settings.config if settings.resume is None else settings.resume / "config.json"
    if settings.resume is not None:
        if settings.config is not None or settings.run is not None:
            expectation = "without --run and --config, because a run continues in its own folder with its own settings"
            raise SettingError("resume", expectation, settings.resume)
        Folder(settings.resume, reader=True)  # raises where there is no run
    if path is not None and settings.preset is not None:
        other = "config" if settings.resume is None else "resume"
        raise SettingError("preset", f"without --{other}, whose settings are the defaults", settings.preset)
    return path
