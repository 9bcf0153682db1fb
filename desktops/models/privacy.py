"""Who looked at one person, and what of whom was erased."""

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
    """What is to go from raw samples: a person, or only their places; and when it had gone.

    The rest goes at once, in the transaction that writes this row (desktops.services.people).
    Once finished the row says whose by alias alone, and its ids are 0.
    """

    class What(models.TextChoices):
        PERSON = "person", "Person"
        PLACES = "places", "Places"

    what = models.CharField(max_length=10, choices=What.choices, default=What.PERSON)
    person_id = models.BigIntegerField()
    desktop_id = models.BigIntegerField(default=0, help_text="0: had none.")
    alias = models.CharField(max_length=64)
    pool_id = models.BigIntegerField()
    actor = models.CharField(max_length=150, blank=True)
    begun_at = models.DateTimeField()
    finished_at = models.DateTimeField(null=True, help_text="Empty: under way.")

    class Meta:
        ordering = ("-begun_at", "-pk")
        indexes = (
            models.Index(
                fields=("person_id",),
                name="erasure_under_way",
                condition=models.Q(finished_at__isnull=True),
            ),
        )

    def __str__(self) -> str:
        return f"{self.what} begun {self.begun_at:%Y-%m-%d %H:%M}"
