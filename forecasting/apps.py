from __future__ import annotations

from django.apps import AppConfig


class ForecastingConfig(AppConfig):
    name = "forecasting"

    def ready(self) -> None:
        from desktops.keeping import register
        from forecasting.keeping import KEEPER

        register(self.name, KEEPER)
