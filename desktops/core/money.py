"""Money as it is shown: the cores count integer micro-units, people read decimals."""

from __future__ import annotations

from decimal import Decimal

MICROS_PER_UNIT = 1_000_000


def amount(micros: int) -> Decimal:
    """Micro-units of a currency as units of it, exactly."""
    return Decimal(micros).scaleb(-6)
