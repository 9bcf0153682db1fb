from __future__ import annotations

from django.db import models

from desktops.models.dataset import Dataset
from desktops.models.fleet import Desktop, DesktopUser
from desktops.models.geography import Site


class RealField(models.FloatField):
    """Single precision: observations are not known to more, and there are many."""

    def db_type(self, connection: object) -> str:
        return "real"


class Activity(models.Model):
    """What was observed of one person or machine in one hour.

    A row may have no person (a machine without one) or no desktop (a person who is only known
    by place); never neither. Demand is what was used, in the units below, NULL when not
    observed; `active_ratio` is the share of the hour with a session, 0 to 1.
    """

    dataset = models.ForeignKey(Dataset, on_delete=models.CASCADE, related_name="+")
    desktop_user = models.ForeignKey(
        DesktopUser, null=True, on_delete=models.CASCADE, related_name="activity"
    )
    desktop = models.ForeignKey(
        Desktop, null=True, on_delete=models.CASCADE, related_name="activity"
    )
    hour = models.DateTimeField()
    active_ratio = RealField(null=True)
    cpu_cores = RealField(null=True)
    memory_bytes = RealField(null=True)
    network_bytes_per_s = RealField(null=True)
    storage_bytes_per_s = RealField(null=True)
    site = models.ForeignKey(Site, null=True, on_delete=models.SET_NULL, related_name="+")

    class Meta:
        constraints = (
            models.CheckConstraint(
                name="activity_has_subject",
                condition=models.Q(desktop_user__isnull=False) | models.Q(desktop__isnull=False),
            ),
            models.UniqueConstraint(
                fields=("desktop_user", "desktop", "hour"),
                name="activity_once_per_hour",
                nulls_distinct=False,
            ),
        )
        indexes = (models.Index(fields=("dataset", "hour"), name="activity_dataset_hour"),)

    def __str__(self) -> str:
        return f"{self.desktop_user_id or self.desktop_id} at {self.hour:%Y-%m-%d %H:%M}"


class ImportedFile(models.Model):
    """A file that was imported whole; its digest makes a second import a no-op."""

    dataset = models.ForeignKey(Dataset, on_delete=models.CASCADE, related_name="files")
    name = models.CharField(max_length=300)
    sha256 = models.CharField(max_length=64)
    rows = models.BigIntegerField()
    rejected_rows = models.BigIntegerField(default=0)
    hours = models.BigIntegerField(help_text="Activity rows it brought.")
    imported_at = models.DateTimeField()

    class Meta:
        ordering = ("-imported_at",)
        constraints = (
            models.UniqueConstraint(fields=("dataset", "sha256"), name="file_once_per_dataset"),
        )

    def __str__(self) -> str:
        return self.name
