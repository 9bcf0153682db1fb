from __future__ import annotations

from datetime import datetime

from django.db import models


class Dataset(models.Model):
    """Where a body of observations comes from, and what time it is there.

    Recorded history is planned as if it were now: forecasts, plans, pages, retention and skew
    checks count from `clock()`, never from the wall clock directly.
    """

    class Kind(models.TextChoices):
        LIVE = "live", "Live"
        IMPORTED = "imported", "Imported"
        SIMULATED = "simulated", "Simulated"

    name = models.SlugField(max_length=80, unique=True)
    label = models.CharField(max_length=120)
    kind = models.CharField(max_length=12, choices=Kind.choices)
    source = models.CharField(
        max_length=300, blank=True, help_text="What the numbers come from, shown beside them."
    )
    as_of = models.DateTimeField(
        null=True,
        blank=True,
        help_text="Now, for this data set. Empty: the wall clock (live data).",
    )
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ("name",)
        constraints = (
            models.CheckConstraint(
                name="dataset_recorded_has_as_of",
                condition=models.Q(kind="live") | models.Q(as_of__isnull=False),
            ),
        )

    def __str__(self) -> str:
        return self.label

    def clock(self, *, wall: datetime) -> datetime:
        return self.as_of or wall
