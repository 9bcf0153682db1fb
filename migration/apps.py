from __future__ import annotations

from django.apps import AppConfig


class MigrationConfig(AppConfig):
    name = "migration"

    def ready(self) -> None:
        from desktops.keeping import register
        from migration.keeping import KEEPER

        register(self.name, KEEPER)
