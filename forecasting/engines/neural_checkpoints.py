"""Trained networks as files: their weights, and as JSON what they were trained on and how."""

from __future__ import annotations

import json
import os
import pickle
import tempfile
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch

from forecasting.engines.neural import NeuralEngine, Trained
from forecasting.engines.neural_training import Settings
from forecasting.errors import InvalidCheckpoint

# What PyTorch, JSON and we ourselves trip over in a file that is something else.
BROKEN = (
    *(RuntimeError, pickle.UnpicklingError, EOFError, LookupError, TypeError, ValueError),
    *(AttributeError, OverflowError),
)

AnyEngine = TypeVar("AnyEngine", bound=NeuralEngine)


def save(engine: NeuralEngine, path: Path) -> None:
    """Write a trained engine. The file is there whole or not at all; its folder is made."""
    if engine.trained is None:
        raise InvalidCheckpoint(f"the {engine.name} engine has not been trained")
    trained = engine.trained
    about = {
        "engine": engine.name,
        "version": engine.version,
        "settings": asdict(engine.settings),
        "step_s": trained.step.total_seconds(),
        "slots_per_day": trained.slots_per_day,
        "horizon": trained.horizon,
        "about": trained.about,
    }
    weights = {name: each.cpu() for name, each in trained.network.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            torch.save({"about": json.dumps(about), "weights": weights}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise


def load(kind: type[AnyEngine], path: Path) -> AnyEngine:
    """Read a trained engine back.

    Raises InvalidCheckpoint for a file that is missing, broken, of another engine, or of another
    version of it: that one would forecast something else. Nothing in the file is executed.
    """
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
        about, weights = json.loads(stored["about"]), stored["weights"]
        found = about["engine"], about["version"]
        if found != (kind.name, kind.version):
            raise InvalidCheckpoint(
                f"{path} holds {found[0]} version {found[1]}, "
                f"this is {kind.name} version {kind.version}: train it again"
            )
        network = kind.network(about["slots_per_day"])
        network.load_state_dict(weights)
        trained = Trained(
            network.eval(),
            timedelta(seconds=about["step_s"]),
            about["slots_per_day"],
            about["horizon"],
            about["about"],
        )
        return kind(Settings(**about["settings"]), trained)
    except InvalidCheckpoint:
        raise
    except OSError as error:
        raise InvalidCheckpoint(f"{path} cannot be read: {error}") from error
    except BROKEN as error:
        raise InvalidCheckpoint(f"{path} is no checkpoint: {error}") from error
