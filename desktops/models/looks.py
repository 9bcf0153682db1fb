"""Who looked at one person."""

from __future__ import annotations

from django.db import models


class Look(models.Model):
    """An account opened one person's page, whereabouts or export; once an hour each.

    The person is known by an alias, which means nothing once they are erased
    (desktops.aliases).
    """

    class What(models.TextChoices):
        PAGE = "page", "Page"
        WHEREABOUTS = "whereabouts", "Whereabouts"
        EXPORT = "export", "Export"

    viewer = models.CharField(max_length=150, help_text="An account, or a program's token.")
    alias = models.CharField(max_length=64)
    what = models.CharField(max_length=12, choices=What.choices)
    hour = models.DateTimeField()

    class Meta:
        ordering = ("-hour", "viewer")
        constraints = (
            models.UniqueConstraint(
                fields=("hour", "viewer", "alias", "what"), name="look_once_per_hour"
            ),
        )

    def __str__(self) -> str:
        return f"{self.viewer} {self.what} {self.hour:%Y-%m-%d %H:00}"
