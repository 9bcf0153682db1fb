"""Who looked at one person, and whose erasure is under way."""

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


class Erasure(models.Model):
    """Somebody who is erased but for raw samples: what is left to delete them by.

    The ids stand for nothing any more; the row goes with the last sample, and an event says so.
    """

    person_id = models.BigIntegerField()
    desktop_id = models.BigIntegerField(default=0, help_text="0: had none.")
    alias = models.CharField(max_length=64)
    pool_id = models.BigIntegerField()
    actor = models.CharField(max_length=150, blank=True)
    begun_at = models.DateTimeField()

    def __str__(self) -> str:
        return f"begun {self.begun_at:%Y-%m-%d %H:%M}"
