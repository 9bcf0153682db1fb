"""What can go wrong in forecasting.

ForecastingError
├── InvalidHistory      numbers that cannot be forecast from: wrong shape, infinite, naive times
├── InvalidCalendar     an unknown country, or events that do not cover the window asked for
├── InvalidTrace        a folder of recorded series that cannot be read
├── InvalidCheckpoint   a file that holds no trained network of this engine and version
├── TrainingSuperseded  another training of the same engine began meanwhile
├── EngineUnavailable   an engine nobody knows, or whose packages are not installed
├── ForecastFailed      a generation ended without being shown; asking for another may help
├── GenerationEnded     somebody else ended the generation while a part of it was made
├── NothingToExport     no profile, or no such format
└── ExportCutShort      newer forecasts came before the file was written
"""

from __future__ import annotations


class ForecastingError(Exception):
    """Base of this app's errors; the message is meant for the person who caused it."""


class InvalidHistory(ForecastingError, ValueError):
    """The history cannot be forecast from; the message names the series and the reason."""


class InvalidCalendar(ForecastingError, ValueError):
    """The country is unknown, or the events do not cover the window asked for."""


class InvalidTrace(ForecastingError, ValueError):
    """The folder holds no series in a layout that is known, or a broken file; it is named."""


class InvalidCheckpoint(ForecastingError, ValueError):
    """The file holds no trained network of this engine and version; it is named."""


class TrainingSuperseded(ForecastingError):
    """Another training of the same engine began; this one left nothing behind."""


class EngineUnavailable(ForecastingError, LookupError):
    """The engine is unknown, or needs packages that are not installed; they are named."""


class ForecastFailed(ForecastingError):
    """The generation failed; the message says which part of it and why."""


class GenerationEnded(ForecastingError):
    """The generation was ended meanwhile; nothing was written, and nothing is left to do."""


class NothingToExport(ForecastingError, LookupError):
    """There is no profile to export, or no such format; the message says which."""


class ExportCutShort(ForecastingError):
    """The forecast was dropped while it was written to a file; the file is not whole."""
