"""What every serializer of the product speaks."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from rest_framework import serializers

from desktops.core.money import amount


class AmountField(serializers.DecimalField):
    """Micro-units of the row's `currency` as an exact decimal. Read-only."""

    def __init__(self, **kwargs: Any) -> None:
        kwargs |= {"max_digits": 20, "decimal_places": 6, "read_only": True}
        super().__init__(**kwargs)

    def to_representation(self, value: int) -> str | Decimal:
        return super().to_representation(amount(value))
