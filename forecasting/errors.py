"""What can go wrong in forecasting.

ForecastingError
├── InvalidHistory   numbers that cannot be forecast from: wrong shape, infinite, naive times
└── InvalidCalendar  an unknown country, or events that do not cover the window asked for
"""

from __future__ import annotations


class ForecastingError(Exception):
    """Base of this app's errors; the message is meant for the person who caused it."""


class InvalidHistory(ForecastingError, ValueError):
    """The history cannot be forecast from; the message names the series and the reason."""


class InvalidCalendar(ForecastingError, ValueError):
    """The country is unknown, or the events do not cover the window asked for."""
