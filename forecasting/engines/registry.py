"""Engines by name, loaded when first asked for: some need packages that are optional."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from forecasting.core.engines import Engine
from forecasting.core.location_evaluation import Fit
from forecasting.errors import EngineUnavailable


@dataclass(frozen=True)
class Entry:
    """Where an engine is, and what it needs that may be missing.

    package : what must be importable; brought_by : the command that installs it
    """

    module: str
    name: str
    package: str = "numpy"
    brought_by: str = "pip install -r requirements.txt"


ENGINES: Mapping[str, Entry] = {
    "product": Entry("forecasting.engines.product", "Product"),
    "prophet_batched": Entry("forecasting.engines.prophet_batched", "ProphetBatched"),
    "pooled": Entry("forecasting.engines.pooled", "Pooled", "lightgbm"),
    "seasonal": Entry("forecasting.engines.seasonal", "Seasonal"),
    "seasonal_naive": Entry("forecasting.engines.naive", "SeasonalNaive"),
    "prophet_stock": Entry("forecasting.engines.prophet_stock", "ProphetStock", "prophet"),
    "lstm": Entry("forecasting.engines.lstm", "Lstm", "torch", "make neural"),
    "transformer": Entry("forecasting.engines.transformer", "Transformer", "torch", "make neural"),
}

# Those of whereabouts, which say where rather than how much; each learns by its method `learn`.
LOCATION_ENGINES: Mapping[str, Entry] = {
    "sequence": Entry("forecasting.engines.sequence", "Sequence", "torch", "make neural"),
}


def installed() -> list[str]:
    """Names of the engines whose packages are there."""
    return [name for name, entry in ENGINES.items() if find_spec(entry.package)]


def load(name: str) -> Engine:
    """An engine with its default settings.

    Raises EngineUnavailable for an unknown name, or when its packages are not installed.
    """
    engine: Engine = _find(ENGINES, name)()
    return engine


def load_location(name: str) -> Fit:
    """How an engine of whereabouts learns the ways of a fleet; raises as `load` does."""
    fit: Fit = _find(LOCATION_ENGINES, name).learn
    return fit


def _find(entries: Mapping[str, Entry], name: str) -> Any:
    entry = entries.get(name)
    if entry is None:
        raise EngineUnavailable(f"No engine {name!r}; there are: {', '.join(entries)}.")
    if not find_spec(entry.package):
        raise EngineUnavailable(
            f"Engine {name!r} needs {entry.package}, which is not installed: {entry.brought_by}"
        )
    return getattr(import_module(entry.module), entry.name)
