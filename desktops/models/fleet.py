from __future__ import annotations

import secrets

from django.conf import settings
from django.db import models

from desktops.models.dataset import Dataset
from desktops.models.geography import Flavor, Region, Site, validate_zone


class Pool(models.Model):
    """Desktops under one policy; also the unit of who may see what."""

    class CutoverMode(models.TextChoices):
        APPROVAL = "approval", "After approval"
        AUTO = "auto", "Automatically"
        OFF = "off", "Never"

    dataset = models.ForeignKey(Dataset, on_delete=models.PROTECT, related_name="pools")
    name = models.SlugField(max_length=80, unique=True)
    label = models.CharField(max_length=120)
    members = models.ManyToManyField(
        settings.AUTH_USER_MODEL,
        blank=True,
        related_name="pools",
        help_text="Who may see this pool. Fleet admins see every pool.",
    )
    cloud = models.SlugField(
        max_length=60,
        blank=True,
        help_text="A name in CLOUDS; its servers are compared with the desktops. Empty: none.",
    )
    server_names = models.CharField(
        max_length=120,
        default="*",
        help_text="Which of the cloud's servers belong here, as a pattern: desk-paris-*.",
    )
    gateway = models.SlugField(max_length=60, default="none", help_text="A name in GATEWAYS.")
    image = models.CharField(max_length=120, blank=True)
    cutover_mode = models.CharField(
        max_length=10, choices=CutoverMode.choices, default=CutoverMode.APPROVAL
    )
    residency = models.ManyToManyField(
        Region, blank=True, related_name="+", help_text="Allowed regions; empty: all."
    )
    gravity_region = models.ForeignKey(
        Region,
        null=True,
        blank=True,
        on_delete=models.SET_NULL,
        related_name="+",
        help_text="Where the pool's applications and file shares are.",
    )

    # SLO and what missing it costs, per user-hour, in `currency`.
    currency = models.CharField(max_length=3, default="USD")
    slo_rtt_ms = models.FloatField(default=60)
    latency_penalty_per_hour = models.DecimalField(
        max_digits=12,
        decimal_places=6,
        default=4,
        help_text="Cost of one active hour at twice the SLO's round trip; rises with every"
        " millisecond up to three times this.",
    )
    saturation_penalty_per_hour = models.DecimalField(max_digits=12, decimal_places=6, default=6)
    gravity_penalty_per_hour = models.DecimalField(max_digits=12, decimal_places=6, default=0)
    stall_penalty_per_minute = models.DecimalField(max_digits=12, decimal_places=6, default=1)
    session_loss_penalty = models.DecimalField(
        max_digits=12,
        decimal_places=6,
        default=2,
        help_text="Cost of closing somebody's open work, when memory cannot travel.",
    )
    move_risk = models.DecimalField(
        max_digits=12, decimal_places=6, default="0.25", help_text="Fixed cost of one move."
    )
    min_gain = models.DecimalField(max_digits=12, decimal_places=6, default=1)
    confidence_threshold = models.FloatField(default=0.6)
    commit_window_s = models.PositiveIntegerField(default=900)
    cooldown_s = models.PositiveIntegerField(default=4 * 3600)
    max_concurrent_moves = models.PositiveIntegerField(default=20)

    class Meta:
        ordering = ("name",)

    def __str__(self) -> str:
        return self.label


def new_alias_key() -> bytes:
    return secrets.token_bytes(32)


class DesktopUser(models.Model):
    """The person a desktop belongs to, known by a pseudonym.

    `pseudonym` is a keyed hash, or the id a public data set already anonymised. What is kept for
    ever (events) knows a person by an alias made with `alias_key`, which goes with the row.
    """

    dataset = models.ForeignKey(Dataset, on_delete=models.PROTECT, related_name="people")
    pool = models.ForeignKey(Pool, on_delete=models.PROTECT, related_name="people")
    pseudonym = models.CharField(max_length=64)
    home_site = models.ForeignKey(
        Site, null=True, blank=True, on_delete=models.SET_NULL, related_name="residents"
    )
    time_zone = models.CharField(max_length=60, default="UTC", validators=[validate_zone])
    is_predicted = models.BooleanField(
        default=True, help_text="Off: opted out; no forecast is made of this person."
    )
    is_located = models.BooleanField(
        default=True, help_text="Off: opted out; where this person is leaves no trace."
    )
    alias_key = models.BinaryField(default=new_alias_key, editable=False)

    class Meta:
        ordering = ("pseudonym",)
        permissions = (
            ("view_names", "Can see the names behind pseudonyms"),
            ("erase_person", "Can export and erase people, and set their opt-outs"),
        )
        constraints = (
            models.UniqueConstraint(
                fields=("dataset", "pseudonym"), name="person_once_per_dataset"
            ),
        )

    def __str__(self) -> str:
        return self.pseudonym


class PersonName(models.Model):
    """Who is behind a pseudonym, kept apart; for holders of desktops.view_names only."""

    desktop_user = models.OneToOneField(
        DesktopUser, on_delete=models.CASCADE, primary_key=True, related_name="named"
    )
    name = models.CharField(max_length=120)

    def __str__(self) -> str:
        return "the name of a person"  # never the name itself: this reaches logs


class Desktop(models.Model):
    """One virtual desktop: which server holds it now, and where.

    `key` is the identity that travels: servers, volumes and gateway sessions carry it, and it
    never changes. `region`, `server_id` and `volume_id` change when a transition commits.
    """

    class State(models.TextChoices):
        RUNNING = "running", "Running"
        STOPPED = "stopped", "Stopped"
        MISSING = "missing", "Missing"
        RECORDED = "recorded", "Recorded history only"

    dataset = models.ForeignKey(Dataset, on_delete=models.PROTECT, related_name="desktops")
    pool = models.ForeignKey(Pool, on_delete=models.PROTECT, related_name="desktops")
    key = models.SlugField(max_length=80, unique=True)
    label = models.CharField(max_length=120)
    desktop_user = models.OneToOneField(
        DesktopUser, null=True, blank=True, on_delete=models.SET_NULL, related_name="desktop"
    )
    owned_since = models.DateTimeField(
        null=True,
        blank=True,
        editable=False,
        help_text="What was observed before is not its present owner's: it had another.",
    )
    region = models.ForeignKey(
        Region, null=True, blank=True, on_delete=models.PROTECT, related_name="desktops"
    )
    flavor = models.ForeignKey(
        Flavor, null=True, blank=True, on_delete=models.PROTECT, related_name="desktops"
    )
    server_id = models.CharField(max_length=64, blank=True)
    volume_id = models.CharField(max_length=64, blank=True)
    volume_bytes = models.BigIntegerField(default=0)
    used_bytes = models.BigIntegerField(
        null=True, blank=True, help_text="Of the volume; empty: not measured, all of it counts."
    )
    dirty_bytes_per_hour = models.BigIntegerField(
        null=True, blank=True, help_text="Unique bytes changed in an hour of work, as measured."
    )
    state = models.CharField(max_length=10, choices=State.choices, default=State.RECORDED)
    moved_at = models.DateTimeField(null=True, blank=True, help_text="Last committed move.")

    class Meta:
        ordering = ("key",)

    def __str__(self) -> str:
        return self.label
