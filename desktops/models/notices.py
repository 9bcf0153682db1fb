"""What is announced: the organisation's calendar, and what people say of themselves."""

from __future__ import annotations

from django.db import models

from desktops.models.dataset import Dataset
from desktops.models.fleet import DesktopUser, Pool
from desktops.models.geography import Site


class Notice(models.Model):
    """Something irregular that was announced for a time, and who says so.

    Of one person (travel, leave), or of the organisation: a whole data set, a pool or a site.
    A notice that no longer holds is withdrawn, never deleted: forecasts were made from it.
    """

    class Kind(models.TextChoices):
        TRAVEL = "travel", "Travel"
        LEAVE = "leave", "Leave"
        CLOSED = "closed", "Closed"
        BUSY = "busy", "Busy period"
        OTHER = "other", "Other"

    class Origin(models.TextChoices):
        REST = "rest", "REST"
        CSV = "csv", "CSV file"
        ICALENDAR = "icalendar", "iCalendar"
        FORM = "form", "By hand"

    dataset = models.ForeignKey(Dataset, on_delete=models.CASCADE, related_name="notices")
    pool = models.ForeignKey(
        Pool, null=True, blank=True, on_delete=models.CASCADE, related_name="notices"
    )
    desktop_user = models.ForeignKey(
        DesktopUser, null=True, blank=True, on_delete=models.CASCADE, related_name="notices"
    )
    site = models.ForeignKey(
        Site,
        null=True,
        blank=True,
        on_delete=models.SET_NULL,
        related_name="+",
        help_text="Where somebody travels to, or which site it is about.",
    )
    kind = models.CharField(max_length=10, choices=Kind.choices)
    title = models.CharField(
        max_length=120, blank=True, help_text="Of the organisation's only; nothing personal."
    )
    starts_at = models.DateTimeField()
    ends_at = models.DateTimeField()
    origin = models.CharField(max_length=10, choices=Origin.choices)
    provenance = models.CharField(
        max_length=200, help_text="The token, file or account it is from."
    )
    uid = models.CharField(max_length=64, help_text="Digest of the id where it comes from.")
    received_at = models.DateTimeField()
    withdrawn_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ("starts_at", "pk")
        constraints = (
            models.UniqueConstraint(
                fields=("dataset", "provenance", "uid"), name="notice_once_per_origin"
            ),
            models.CheckConstraint(
                name="notice_ends_after_start",
                condition=models.Q(ends_at__gt=models.F("starts_at")),
            ),
        )
        indexes = (models.Index(fields=("dataset", "ends_at"), name="notice_dataset_end"),)

    def __str__(self) -> str:
        return f"{self.kind} from {self.starts_at:%Y-%m-%d}"
