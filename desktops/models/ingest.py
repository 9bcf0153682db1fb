"""What arrives from sources: who reported, what was handed over, and what was refused."""

from __future__ import annotations

import math

from django.contrib.postgres.fields import ArrayField
from django.db import models

from desktops.models.activity import RealField
from desktops.models.dataset import Dataset
from desktops.models.fleet import Desktop, DesktopUser, Pool
from desktops.models.geography import Site


class Source(models.Model):
    """One origin of activity of one pool, and how it is doing."""

    class Kind(models.TextChoices):
        AGENT = "agent", "Agent in the desktop"
        PROMETHEUS = "prometheus", "Prometheus"
        GNOCCHI = "gnocchi", "Gnocchi"
        GUACAMOLE = "guacamole", "Apache Guacamole"
        PRESENCE = "presence", "Presence"

    name = models.SlugField(max_length=80, unique=True)
    kind = models.CharField(max_length=12, choices=Kind.choices)
    dataset = models.ForeignKey(Dataset, on_delete=models.CASCADE, related_name="sources")
    pool = models.ForeignKey(Pool, on_delete=models.CASCADE, related_name="sources")
    cursor_at = models.DateTimeField(
        null=True, help_text="Everything before was asked for and is stored (pulled sources)."
    )
    last_attempt_at = models.DateTimeField(null=True)
    last_success_at = models.DateTimeField(null=True)
    last_error = models.CharField(max_length=500, blank=True)
    newest_at = models.DateTimeField(null=True, help_text="Time of the newest observation.")
    rows = models.BigIntegerField(default=0)
    rejected_rows = models.BigIntegerField(default=0)

    class Meta:
        ordering = ("name",)

    def __str__(self) -> str:
        return self.name


class Batch(models.Model):
    """One delivery of an agent, checked and kept until its rows are in the tables.

    Its id makes a second delivery of the same batch a no-op.
    """

    source = models.ForeignKey(Source, on_delete=models.CASCADE, related_name="batches")
    desktop = models.ForeignKey(Desktop, on_delete=models.CASCADE, related_name="batches")
    batch_id = models.UUIDField()
    received_at = models.DateTimeField()
    body = models.BinaryField(
        null=True, help_text="Samples as desktops.sources.agent.ROW; empty once settled."
    )
    extras = models.JSONField(
        null=True, help_text="Applications, disk reads, codes of sites; empty once settled."
    )
    settled_at = models.DateTimeField(null=True)
    rows = models.IntegerField(null=True, help_text="Rows stored; empty: not settled yet.")
    rejected_rows = models.IntegerField(null=True)

    class Meta:
        constraints = (
            models.UniqueConstraint(fields=("desktop", "batch_id"), name="batch_once_per_desktop"),
        )
        indexes = (
            models.Index(
                fields=("id",), name="batch_unsettled", condition=models.Q(settled_at__isnull=True)
            ),
            models.Index(fields=("received_at",), name="batch_received"),
        )

    def __str__(self) -> str:
        return str(self.batch_id)


class QuarantinedRow(models.Model):
    """A row that was refused, with the reason; it can be replayed once the reason is gone.

    `row` holds the observation as it would be stored: no name, no address.
    """

    class State(models.TextChoices):
        HELD = "held", "Held"
        REPLAYED = "replayed", "Replayed"
        DISCARDED = "discarded", "Discarded"

    source = models.ForeignKey(Source, on_delete=models.CASCADE, related_name="quarantine")
    desktop = models.ForeignKey(Desktop, null=True, on_delete=models.CASCADE, related_name="+")
    desktop_user = models.ForeignKey(
        DesktopUser, null=True, on_delete=models.CASCADE, related_name="+"
    )
    received_at = models.DateTimeField()
    reason = models.SlugField(max_length=40)
    detail = models.CharField(max_length=300)
    row = models.JSONField()
    state = models.CharField(max_length=10, choices=State.choices, default=State.HELD)
    settled_at = models.DateTimeField(null=True)
    settled_by = models.CharField(max_length=150, blank=True)

    class Meta:
        ordering = ("-pk",)
        indexes = (models.Index(fields=("source", "state"), name="quarantine_source_state"),)

    def __str__(self) -> str:
        return f"{self.reason} {self.pk}"


class Sample(models.Model):
    """One raw observation. Partitioned by day of `at` (UTC), dropped by the day.

    The table is made by a migration's SQL: Django knows nothing of partitions. It has no index to
    keep but a coarse one over time, so that a fleet's samples go in as fast as they are copied;
    what keeps a row from being there twice is `Watermark`. Ids are 0 for nobody and nowhere, and
    measures NaN where not observed: every row has the same width.
    """

    desktop_user_id = models.BigIntegerField(default=0)
    desktop_id = models.BigIntegerField(default=0)
    at = models.DateTimeField()
    source_id = models.BigIntegerField()
    site_id = models.BigIntegerField(default=0)
    active_ratio = RealField(default=math.nan)
    cpu_cores = RealField(default=math.nan)
    memory_bytes = RealField(default=math.nan)
    network_bytes_per_s = RealField(default=math.nan)
    storage_bytes_per_s = RealField(default=math.nan)

    pk = models.CompositePrimaryKey("desktop_user_id", "desktop_id", "at", "source_id")

    class Meta:
        managed = False

    def __str__(self) -> str:
        return f"{self.desktop_user_id or self.desktop_id} at {self.at}"


class Watermark(models.Model):
    """The newest sample that a source brought of one person or machine.

    What is newer cannot be there yet; what is not is looked up before it is stored.
    """

    source = models.ForeignKey(Source, on_delete=models.CASCADE, related_name="+")
    desktop_user_id = models.BigIntegerField(default=0)
    desktop_id = models.BigIntegerField(default=0)
    newest_at = models.DateTimeField()

    class Meta:
        constraints = (
            models.UniqueConstraint(
                fields=("source", "desktop_user_id", "desktop_id"), name="watermark_once"
            ),
        )

    def __str__(self) -> str:
        return f"{self.desktop_user_id or self.desktop_id} {self.newest_at}"


class Sighting(models.Model):
    """Where somebody was last seen: what confirms or contradicts a prediction at once.

    Without a site they have left: nothing older than `at` says where they are.
    """

    desktop_user = models.OneToOneField(
        DesktopUser, on_delete=models.CASCADE, primary_key=True, related_name="sighting"
    )
    site = models.ForeignKey(Site, null=True, on_delete=models.CASCADE, related_name="+")
    at = models.DateTimeField()
    source = models.ForeignKey(Source, on_delete=models.CASCADE, related_name="+")

    def __str__(self) -> str:
        return f"{self.desktop_user_id} {self.at}"


class DirtyHour(models.Model):
    """An hour whose samples changed since it was last rolled up. Ids are 0 for nobody."""

    desktop_user_id = models.BigIntegerField(default=0)
    desktop_id = models.BigIntegerField(default=0)
    hour = models.DateTimeField()
    marked_at = models.DateTimeField()

    class Meta:
        constraints = (
            models.UniqueConstraint(
                fields=("hour", "desktop_user_id", "desktop_id"), name="hour_dirty_once"
            ),
        )

    def __str__(self) -> str:
        return f"{self.desktop_user_id or self.desktop_id} {self.hour}"


class ApplicationUse(models.Model):
    """Processor time that one application had on a desktop in one hour."""

    desktop = models.ForeignKey(Desktop, on_delete=models.CASCADE, related_name="+")
    desktop_user = models.ForeignKey(
        DesktopUser, null=True, on_delete=models.CASCADE, related_name="+"
    )
    hour = models.DateTimeField()
    application = models.CharField(
        max_length=80, help_text="A name of the allow-list, or h: and a keyed hash."
    )
    cpu_core_s = RealField(help_text="Seconds of one core.")

    class Meta:
        constraints = (
            models.UniqueConstraint(
                fields=("desktop", "desktop_user", "hour", "application"),
                name="application_once_per_hour",
                nulls_distinct=False,
            ),
        )
        indexes = (models.Index(fields=("hour",), name="application_hour"),)

    def __str__(self) -> str:
        return self.application


class DiskRead(models.Model):
    """Which parts of a desktop's disk were read on one day: what a shadow is filled with first.

    Element n of `read_bytes` belongs to the extent that begins at `extents[n] * extent_bytes`.
    """

    desktop = models.ForeignKey(Desktop, on_delete=models.CASCADE, related_name="disk_reads")
    day = models.DateField()
    extent_bytes = models.BigIntegerField()
    extents = ArrayField(models.IntegerField())
    read_bytes = ArrayField(models.BigIntegerField())

    class Meta:
        constraints = (
            models.UniqueConstraint(
                fields=("desktop", "day", "extent_bytes"), name="disk_read_once_per_day"
            ),
        )

    def __str__(self) -> str:
        return f"{self.desktop_id} {self.day}"
