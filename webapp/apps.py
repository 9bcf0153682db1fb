from __future__ import annotations

from django.apps import AppConfig
from django.db.models.signals import post_migrate


class WebappConfig(AppConfig):
    name = "webapp"

    def ready(self) -> None:
        # Celery too: any process may send a task, not only workers.
        from webapp import celery, checks, signals  # noqa: F401
        from webapp.roles import ensure_roles

        # This app migrates last, so every permission exists by then.
        post_migrate.connect(ensure_roles, sender=self, dispatch_uid="webapp.ensure_roles")
