"""What a cloud holds beside the desktops, and how it differed from the tables."""

from __future__ import annotations

from django.db import models

from desktops.models.fleet import Pool
from desktops.models.geography import Region


class RegionState(models.Model):
    """Quota and hosts of a region, as last listed. An empty limit is no limit."""

    region = models.OneToOneField(
        Region, on_delete=models.CASCADE, primary_key=True, related_name="quota"
    )
    observed_at = models.DateTimeField()
    servers = models.IntegerField(null=True)
    servers_used = models.IntegerField()
    vcpus = models.IntegerField(null=True)
    vcpus_used = models.IntegerField()
    memory_bytes = models.BigIntegerField(null=True)
    memory_bytes_used = models.BigIntegerField()
    volume_bytes = models.BigIntegerField(null=True)
    volume_bytes_used = models.BigIntegerField()
    hosts = models.JSONField(
        default=list, help_text="Of the region: name, is_up, is_enabled. Empty: not to be known."
    )

    def __str__(self) -> str:
        return f"{self.region_id} at {self.observed_at}"


class InventorySync(models.Model):
    """The newest comparison of a pool with its cloud; what differed is in its drifts."""

    pool = models.OneToOneField(
        Pool, on_delete=models.CASCADE, primary_key=True, related_name="inventory"
    )
    cloud = models.SlugField(max_length=60)
    attempted_at = models.DateTimeField()
    succeeded_at = models.DateTimeField(null=True)
    failure = models.CharField(max_length=500, blank=True)

    def __str__(self) -> str:
        return f"{self.pool_id} at {self.attempted_at}"


class Drift(models.Model):
    """One difference between the cloud and the tables that still stands."""

    class Kind(models.TextChoices):
        VANISHED = "vanished", "Vanished from the cloud"
        UNKNOWN = "unknown", "Unknown server"
        CHANGED = "changed", "Changed by others"
        UNLISTED = "unlisted", "Region could not be listed"

    sync = models.ForeignKey(InventorySync, on_delete=models.CASCADE, related_name="drifts")
    kind = models.CharField(max_length=10, choices=Kind.choices)
    region = models.CharField(max_length=60)
    server_id = models.CharField(max_length=64, blank=True)
    name = models.CharField(max_length=255, help_text="Of the server, or of the region.")
    detail = models.CharField(max_length=300)
    first_seen_at = models.DateTimeField()

    class Meta:
        ordering = ("kind", "region", "name")
        constraints = (
            models.UniqueConstraint(
                fields=("sync", "kind", "region", "server_id"), name="drift_once"
            ),
        )

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"
