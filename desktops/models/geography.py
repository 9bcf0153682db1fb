"""Where desktops can run, where people are, and what lies between."""

from __future__ import annotations

import re

from django.core.exceptions import ValidationError
from django.db import models

from desktops.core.metros import ELSEWHERE_CODE
from desktops.core.zones import is_zone

PROBE_HOST = re.compile(r"\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?")


def validate_zone(name: str) -> None:
    if not is_zone(name):
        raise ValidationError(f"There is no time zone {name!r}; Europe/Paris is one.")


def validate_site_code(code: str) -> None:
    if code == ELSEWHERE_CODE:
        raise ValidationError(f"{code!r} stands for all places that are no site.")


def validate_probe_address(text: str) -> None:
    host, _, port = text.rpartition(":")
    is_port = port.isascii() and port.isdecimal() and 0 < int(port) < 65536
    if not (PROBE_HOST.fullmatch(host) and is_port):
        raise ValidationError(f"{text!r} is no HOST:PORT; gateway.example.org:443 is one.")


class Region(models.Model):
    """A cloud's region; `name` is the cloud's own name for it."""

    cloud = models.SlugField(max_length=60, help_text="A name in CLOUDS.")
    name = models.CharField(max_length=60)
    label = models.CharField(max_length=120)
    country = models.CharField(max_length=2, blank=True, help_text="ISO 3166-1 alpha-2.")
    latitude = models.FloatField(null=True, blank=True)
    longitude = models.FloatField(null=True, blank=True)
    time_zone = models.CharField(max_length=60, default="UTC", validators=[validate_zone])
    volume_price_per_gb_month = models.DecimalField(max_digits=12, decimal_places=6, default=0)
    currency = models.CharField(max_length=3, default="USD")
    source = models.CharField(max_length=300, blank=True)
    probe_address = models.CharField(
        max_length=255,
        blank=True,
        validators=[validate_probe_address],
        help_text="HOST:PORT of something in the region that takes TCP connections: what probes at"
        " sites measure the round trip to.",
    )

    class Meta:
        ordering = ("cloud", "name")
        constraints = (
            models.UniqueConstraint(fields=("cloud", "name"), name="region_once_per_cloud"),
        )

    def __str__(self) -> str:
        return self.label


class Site(models.Model):
    """Where people are: an office or a metro area; never finer."""

    code = models.SlugField(max_length=60, unique=True, validators=[validate_site_code])
    label = models.CharField(max_length=120)
    country = models.CharField(max_length=2, blank=True, help_text="ISO 3166-1 alpha-2.")
    latitude = models.FloatField()
    longitude = models.FloatField()
    time_zone = models.CharField(max_length=60, default="UTC", validators=[validate_zone])

    class Meta:
        ordering = ("label",)

    def __str__(self) -> str:
        return self.label


class Network(models.Model):
    """Addresses that mean a site; the longest prefix that holds an address decides.

    Without a site it says that nobody's place can be told from these addresses: a VPN's exit.
    """

    cidr = models.CharField(max_length=49, unique=True, help_text="10.1.0.0/16 or 2001:db8::/32.")
    site = models.ForeignKey(
        Site,
        null=True,
        blank=True,
        on_delete=models.CASCADE,
        related_name="networks",
        help_text="Empty: a VPN or shared exit, where the place stays unknown.",
    )
    label = models.CharField(max_length=120, blank=True)

    class Meta:
        ordering = ("cidr",)

    def __str__(self) -> str:
        return self.cidr


class RoundTrip(models.Model):
    """Round-trip time between a site and a region, and who says so."""

    class Source(models.TextChoices):
        MEASURED = "measured", "Measured"
        TABLE = "table", "Admin's table"
        ESTIMATE = "estimate", "Great-circle estimate"

    site = models.ForeignKey(Site, on_delete=models.CASCADE, related_name="round_trips")
    region = models.ForeignKey(Region, on_delete=models.CASCADE, related_name="round_trips")
    rtt_ms = models.FloatField()
    source = models.CharField(max_length=10, choices=Source.choices)
    measured_at = models.DateTimeField(null=True, blank=True)
    probes = models.PositiveIntegerField(
        null=True, blank=True, help_text="How many it is the median of."
    )

    class Meta:
        constraints = (
            # What was measured does not take the place of what the admin entered: it may end.
            models.UniqueConstraint(fields=("site", "region", "source"), name="round_trip_once"),
            models.CheckConstraint(
                name="round_trip_not_negative", condition=models.Q(rtt_ms__gte=0)
            ),
        )

    def __str__(self) -> str:
        return f"{self.site_id}→{self.region_id}: {self.rtt_ms} ms"


class RoundTripProbe(models.Model):
    """One round trip, measured at a site by a program there; one a minute counts."""

    site = models.ForeignKey(Site, on_delete=models.CASCADE, related_name="+")
    region = models.ForeignKey(Region, on_delete=models.CASCADE, related_name="+")
    program = models.CharField(max_length=80, help_text="The name of its token.")
    at = models.DateTimeField(help_text="Whole minutes.")
    rtt_ms = models.FloatField()

    class Meta:
        constraints = (
            models.UniqueConstraint(
                fields=("site", "region", "program", "at"), name="probe_once_a_minute"
            ),
        )
        indexes = (models.Index(fields=("at",), name="probe_at"),)

    def __str__(self) -> str:
        return f"{self.site_id}→{self.region_id}: {self.rtt_ms} ms"


class RegionLink(models.Model):
    """What it takes and costs to send bytes from one region to another."""

    source = models.ForeignKey(Region, on_delete=models.CASCADE, related_name="links_out")
    dest = models.ForeignKey(Region, on_delete=models.CASCADE, related_name="links_in")
    egress_price_per_gb = models.DecimalField(max_digits=12, decimal_places=6)
    bytes_per_s = models.BigIntegerField(help_text="Bandwidth that transfers may use.")
    rtt_ms = models.FloatField(null=True, blank=True)

    class Meta:
        constraints = (
            models.UniqueConstraint(fields=("source", "dest"), name="region_link_once"),
            models.CheckConstraint(
                name="region_link_has_bandwidth", condition=models.Q(bytes_per_s__gt=0)
            ),
        )

    def __str__(self) -> str:
        return f"{self.source_id}→{self.dest_id}"


class Flavor(models.Model):
    """A size of server, the same in every region of a cloud that has it."""

    cloud = models.SlugField(max_length=60)
    name = models.CharField(max_length=80)
    vcpus = models.PositiveIntegerField()
    memory_bytes = models.BigIntegerField()

    class Meta:
        ordering = ("cloud", "vcpus", "memory_bytes")
        constraints = (
            models.UniqueConstraint(fields=("cloud", "name"), name="flavor_once_per_cloud"),
        )

    def __str__(self) -> str:
        return self.name


class FlavorPrice(models.Model):
    """A row exists where the flavor can be had."""

    flavor = models.ForeignKey(Flavor, on_delete=models.CASCADE, related_name="prices")
    region = models.ForeignKey(Region, on_delete=models.CASCADE, related_name="prices")
    price_per_hour = models.DecimalField(max_digits=12, decimal_places=6)

    class Meta:
        constraints = (
            models.UniqueConstraint(fields=("flavor", "region"), name="flavor_price_once"),
        )

    def __str__(self) -> str:
        return f"{self.flavor_id} in {self.region_id}"
