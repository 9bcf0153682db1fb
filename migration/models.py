"""What was advised, decided and done.

Quantities of money are integer micro-units of `currency` here, as in migration.core: they are
sums that must stay exact. Pages and the API show them as decimals.
"""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.db.models import F, Q

from desktops.models import Dataset, Desktop, Flavor, Pool, Region
from forecasting.models import Generation
from migration.core.machine import TERMINAL, State, Strategy


class Plan(models.Model):
    """What the planner advises for a whole data set, from one generation of profiles."""

    dataset = models.ForeignKey(Dataset, on_delete=models.CASCADE, related_name="plans")
    generation = models.ForeignKey(Generation, on_delete=models.PROTECT, related_name="plans")
    as_of = models.DateTimeField()
    made_at = models.DateTimeField()
    superseded_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ("-made_at",)
        constraints = (
            models.UniqueConstraint(
                fields=("dataset",),
                condition=Q(superseded_at__isnull=True),
                name="one_current_plan_per_dataset",
            ),
        )

    def __str__(self) -> str:
        return f"{self.dataset_id} at {self.as_of:%Y-%m-%d %H:%M}"


class Recommendation(models.Model):
    """What the plan advises for one desktop, itemised in money, with its reasons."""

    class Action(models.TextChoices):
        STAY = "stay", "Stay"
        PREPARE = "prepare", "Prepare and move"
        RESIZE = "resize", "Resize"

    class State(models.TextChoices):
        ADVISED = "advised", "Advised"  # nothing to decide: stay
        AWAITING_APPROVAL = "awaiting_approval", "Awaiting approval"
        APPROVED = "approved", "Approved"
        REJECTED = "rejected", "Rejected"
        SUPERSEDED = "superseded", "Superseded"
        EXPIRED = "expired", "Expired"

    plan = models.ForeignKey(Plan, on_delete=models.CASCADE, related_name="recommendations")
    pool = models.ForeignKey(Pool, on_delete=models.PROTECT, related_name="recommendations")
    desktop = models.ForeignKey(Desktop, on_delete=models.CASCADE, related_name="recommendations")
    action = models.CharField(max_length=10, choices=Action.choices)
    state = models.CharField(max_length=20, choices=State.choices)
    strategy = models.CharField(
        max_length=12, choices=[(s.value, s.value) for s in Strategy], blank=True
    )
    shadow_tier = models.CharField(max_length=8, blank=True)
    source_region = models.ForeignKey(Region, on_delete=models.PROTECT, related_name="+")
    dest_region = models.ForeignKey(Region, null=True, on_delete=models.PROTECT, related_name="+")
    flavor = models.ForeignKey(Flavor, null=True, on_delete=models.PROTECT, related_name="+")
    keeps_source_as_shadow = models.BooleanField(default=False)

    currency = models.CharField(max_length=3)
    stay_cost_micros = models.BigIntegerField()
    action_cost_micros = models.BigIntegerField()
    gain_micros = models.BigIntegerField()
    items = models.JSONField(
        default=list, help_text="[{name, micros, note}], summing to action_cost_micros."
    )
    confidence = models.FloatField()
    reason = models.TextField()
    stall_ms = models.BigIntegerField(default=0)
    sync_interval_s = models.PositiveIntegerField(null=True)
    prepare_by = models.DateTimeField(null=True)
    cutover_from = models.DateTimeField(null=True)
    cutover_until = models.DateTimeField(null=True)
    expires_at = models.DateTimeField()
    confirm_terms = models.JSONField(
        null=True, help_text="What a later observation is held against (core.advice.ConfirmTerms)."
    )

    class Meta:
        ordering = ("-gain_micros", "pk")
        constraints = (
            models.UniqueConstraint(fields=("plan", "desktop"), name="one_advice_per_desktop"),
        )
        indexes = (models.Index(fields=("pool", "state"), name="recommendation_pool_state"),)

    def __str__(self) -> str:
        return f"{self.action} {self.desktop_id}"


class Decision(models.Model):
    """A dated yes or no to a recommendation, and who gave it."""

    class Verdict(models.TextChoices):
        APPROVED = "approved", "Approved"
        REJECTED = "rejected", "Rejected"

    recommendation = models.OneToOneField(
        Recommendation, on_delete=models.CASCADE, related_name="decision"
    )
    verdict = models.CharField(max_length=10, choices=Verdict.choices)
    decided_by = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        null=True,
        on_delete=models.SET_NULL,
        related_name="+",
        help_text="Empty: the pool's automatic mode.",
    )
    decided_at = models.DateTimeField()
    note = models.CharField(max_length=500, blank=True)

    def __str__(self) -> str:
        return f"{self.verdict} {self.recommendation_id}"


class Shadow(models.Model):
    """The minimal replica of a desktop in a candidate region."""

    class Tier(models.TextChoices):
        SEED = "seed", "Seed (base image and volume)"
        WARM = "warm", "Warm (volume kept in step)"
        HOT = "hot", "Hot (small server)"

    class State(models.TextChoices):
        FILLING = "filling", "Being filled"
        READY = "ready", "Ready"
        PROMOTED = "promoted", "Promoted to the desktop"
        RELEASING = "releasing", "Being released"
        RELEASED = "released", "Released"

    desktop = models.ForeignKey(Desktop, on_delete=models.CASCADE, related_name="shadows")
    region = models.ForeignKey(Region, on_delete=models.PROTECT, related_name="shadows")
    tier = models.CharField(max_length=8, choices=Tier.choices)
    state = models.CharField(max_length=10, choices=State.choices, default=State.FILLING)
    volume_id = models.CharField(max_length=64, blank=True)
    recovery_point_at = models.DateTimeField(
        null=True, blank=True, help_text="Newest consistent state it holds."
    )
    lag_bytes = models.BigIntegerField(
        null=True, blank=True, help_text="What the newest pass found changed since the one before."
    )
    sent_bytes = models.BigIntegerField(default=0)
    paused_at = models.DateTimeField(
        null=True, blank=True, help_text="No pass begins until it is resumed."
    )
    sync_interval_s = models.PositiveIntegerField(
        null=True, blank=True, help_text="Empty: synchronised for its transition only."
    )
    sync_asked_at = models.DateTimeField(
        null=True, blank=True, help_text="A pass is to begin that is of this moment or later."
    )
    own_pass = models.ForeignKey(
        "Pass",
        null=True,
        blank=True,
        on_delete=models.SET_NULL,
        related_name="+",
        help_text="By its schedule or asked for: under way, or over and not yet acted on.",
    )
    pass_began_at = models.DateTimeField(
        null=True, blank=True, help_text="The newest of its own passes."
    )
    created_at = models.DateTimeField()
    released_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = (
            models.UniqueConstraint(
                fields=("desktop", "region"),
                condition=Q(state__in=("filling", "ready")),
                name="one_live_shadow_per_region",
            ),
        )

    def __str__(self) -> str:
        return f"{self.desktop_id} in {self.region_id}"


class ShadowTest(models.Model):
    """A test boot: a server that nobody can reach, started on a copy of the shadow, and removed."""

    class State(models.TextChoices):
        RUNNING = "running", "Under way"
        PASSED = "passed", "Passed"
        FAILED = "failed", "Failed"

    shadow = models.ForeignKey(Shadow, on_delete=models.CASCADE, related_name="tests")
    state = models.CharField(max_length=8, choices=State.choices, default=State.RUNNING)
    asked_by = models.CharField(max_length=150)
    asked_at = models.DateTimeField()
    recovery_point_at = models.DateTimeField(
        null=True, blank=True, help_text="Of the state that was booted."
    )
    ordered_at = models.DateTimeField(null=True, blank=True, help_text="The server was asked for.")
    decided_at = models.DateTimeField(null=True, blank=True, help_text="It ran, or it failed.")
    cleaned_at = models.DateTimeField(
        null=True, blank=True, help_text="Nothing of the test is left in the cloud."
    )
    detail = models.CharField(max_length=500, blank=True)

    class Meta:
        ordering = ("-asked_at",)
        constraints = (
            models.UniqueConstraint(
                fields=("shadow",),
                condition=Q(cleaned_at__isnull=True),
                name="one_test_per_shadow",
            ),
        )

    def __str__(self) -> str:
        return f"test {self.pk} of shadow {self.shadow_id}"


class Transition(models.Model):
    """One desktop's move: a durable state machine.

    The row is the order; Celery only rings the doorbell. `lease_token` grows with every lease,
    and a worker writes only while the row still holds the token it was given.
    """

    key = models.CharField(max_length=64, unique=True)
    recommendation = models.OneToOneField(
        Recommendation, null=True, on_delete=models.PROTECT, related_name="transition"
    )
    pool = models.ForeignKey(Pool, on_delete=models.PROTECT, related_name="transitions")
    desktop = models.ForeignKey(Desktop, on_delete=models.CASCADE, related_name="transitions")
    strategy = models.CharField(max_length=12, choices=[(s.value, s.value) for s in Strategy])
    state = models.CharField(
        max_length=16, choices=[(s.value, s.label) for s in State], default=State.PLANNED
    )
    source_region = models.ForeignKey(Region, on_delete=models.PROTECT, related_name="+")
    dest_region = models.ForeignKey(Region, on_delete=models.PROTECT, related_name="+")
    flavor = models.ForeignKey(Flavor, null=True, on_delete=models.PROTECT, related_name="+")
    shadow = models.ForeignKey(
        Shadow, null=True, blank=True, on_delete=models.SET_NULL, related_name="transitions"
    )
    keeps_source_as_shadow = models.BooleanField(default=False)

    source_server_id = models.CharField(max_length=64)
    source_volume_id = models.CharField(max_length=64, blank=True)
    source_host = models.CharField(max_length=120, blank=True)
    dest_server_id = models.CharField(max_length=64, blank=True)
    dest_volume_id = models.CharField(max_length=64, blank=True)

    approved_at = models.DateTimeField(null=True, blank=True)
    confirmed_at = models.DateTimeField(null=True, blank=True)
    confirmation = models.CharField(max_length=300, blank=True)
    cancel_requested_at = models.DateTimeField(null=True, blank=True)
    expires_at = models.DateTimeField(help_text="Unconfirmed by then: cancelled.")
    state_entered_at = models.DateTimeField()
    interrupted_state = models.CharField(
        max_length=16, blank=True, help_text="Where an operator resumes it."
    )
    commit_until = models.DateTimeField(null=True, blank=True)
    frozen_at = models.DateTimeField(null=True, blank=True)
    had_session = models.BooleanField(
        null=True, help_text="Somebody was connected when the session was held."
    )
    reconnected_at = models.DateTimeField(null=True, blank=True)
    machine_stall_ms = models.PositiveIntegerField(
        null=True,
        blank=True,
        help_text="How long a machine that moved while it ran stood still, as its relay measured.",
    )
    dest_used_at = models.DateTimeField(
        null=True, blank=True, help_text="First session seen on the destination."
    )
    sync_passes = models.PositiveIntegerField(default=0, help_text="Finished before the freeze.")
    created_at = models.DateTimeField()
    finished_at = models.DateTimeField(null=True, blank=True)
    waiting_for = models.CharField(
        max_length=300, blank=True, help_text="What it waits for, in a sentence."
    )
    failure = models.CharField(max_length=500, blank=True)
    trouble = models.CharField(
        max_length=500, blank=True, help_text="Why the present command does not succeed yet."
    )
    trouble_is_final = models.BooleanField(default=False)
    failed_attempts = models.PositiveIntegerField(default=0)

    lease_owner = models.CharField(max_length=120, blank=True)
    lease_until = models.DateTimeField(null=True, blank=True)
    lease_token = models.BigIntegerField(default=0)
    due_at = models.DateTimeField(help_text="When a sweep should look at it next.")

    class Meta:
        ordering = ("-created_at",)
        permissions = (
            ("approve_transition", "Can approve, reject and confirm moves"),
            ("operate_transition", "Can cancel and resume moves, and ask for a new plan"),
        )
        constraints = (
            models.UniqueConstraint(
                fields=("desktop",),
                condition=~Q(state__in=sorted(TERMINAL)),
                name="one_transition_per_desktop",
            ),
        )
        indexes = (
            models.Index(
                fields=("due_at",),
                condition=~Q(state__in=sorted(TERMINAL)),
                name="transition_due",
            ),
        )

    def __str__(self) -> str:
        return self.key

    @property
    def stall_ms(self) -> int | None:
        """What the user felt: how long the machine stood still where it moved while it ran, else
        from the freeze to the session seen again."""
        if self.machine_stall_ms is not None:
            return self.machine_stall_ms
        if self.frozen_at is None or self.reconnected_at is None:
            return None
        return round((self.reconnected_at - self.frozen_at).total_seconds() * 1000)


class Step(models.Model):
    """One command of a transition: its intent is committed before it is sent, its outcome
    after, so that whoever takes over knows what may already have happened."""

    class Outcome(models.TextChoices):
        PENDING = "pending", "Sent, outcome unknown"
        DONE = "done", "Done"
        RETRY = "retry", "To be retried"
        FAILED = "failed", "Failed"

    transition = models.ForeignKey(Transition, on_delete=models.CASCADE, related_name="steps")
    number = models.PositiveIntegerField()
    state = models.CharField(max_length=16, choices=[(s.value, s.label) for s in State])
    command = models.CharField(max_length=40)
    key = models.CharField(max_length=160, help_text="Sent to the cloud; makes a repeat harmless.")
    intended_at = models.DateTimeField()
    finished_at = models.DateTimeField(null=True, blank=True)
    outcome = models.CharField(max_length=8, choices=Outcome.choices, default=Outcome.PENDING)
    attempts = models.PositiveIntegerField(default=1)
    bytes_done = models.BigIntegerField(null=True, blank=True)
    bytes_total = models.BigIntegerField(null=True, blank=True)
    detail = models.CharField(max_length=500, blank=True)

    class Meta:
        ordering = ("transition", "number")
        constraints = (
            models.UniqueConstraint(fields=("transition", "number"), name="step_number_once"),
            models.UniqueConstraint(fields=("transition", "key"), name="step_key_once"),
            models.CheckConstraint(
                name="step_finished_after_intent",
                condition=Q(finished_at__isnull=True) | Q(finished_at__gte=F("intended_at")),
            ),
        )

    def __str__(self) -> str:
        return f"{self.transition_id}.{self.number} {self.command}"


class Relay(models.Model):
    """A process that sends what leaves its region, and takes in what is sent there."""

    region = models.ForeignKey(Region, on_delete=models.CASCADE, related_name="relays")
    address = models.CharField(max_length=255)
    port = models.PositiveIntegerField()
    store = models.CharField(
        max_length=40, help_text="Of what it knows of shadows; relays of one host may share it."
    )
    started_at = models.DateTimeField()
    seen_at = models.DateTimeField()

    class Meta:
        constraints = (
            models.UniqueConstraint(fields=("region", "address", "port"), name="relay_once"),
        )

    def __str__(self) -> str:
        return f"{self.address}:{self.port} in {self.region_id}"


class Pass(models.Model):
    """What relays are to bring from one region to another, and how far that is.

    The row is the order; Celery only rings for it on the queue of the source's region.
    """

    class Kind(models.TextChoices):
        VOLUME = "volume", "Volume"
        MACHINE = "machine", "Running machine"

    class State(models.TextChoices):
        WAITING = "waiting", "Waiting for a relay"
        RUNNING = "running", "Under way"
        DONE = "done", "Done"
        FAILED = "failed", "Failed"
        ABANDONED = "abandoned", "Given up"

    key = models.CharField(max_length=160, unique=True)
    kind = models.CharField(max_length=8, choices=Kind.choices, default=Kind.VOLUME)
    state = models.CharField(max_length=10, choices=State.choices, default=State.WAITING)
    shadow = models.ForeignKey(
        Shadow, null=True, blank=True, on_delete=models.SET_NULL, related_name="passes"
    )
    transition = models.ForeignKey(
        Transition, null=True, blank=True, on_delete=models.SET_NULL, related_name="passes"
    )
    source_region = models.ForeignKey(Region, on_delete=models.PROTECT, related_name="+")
    dest_region = models.ForeignKey(Region, on_delete=models.PROTECT, related_name="+")
    source_volume_id = models.CharField(max_length=64)
    dest_volume_id = models.CharField(max_length=64, blank=True)
    makes_volume = models.BooleanField(default=False, help_text="It made its destination.")
    is_final = models.BooleanField(
        default=False, help_text="A server is started on what it brought."
    )
    store = models.CharField(
        max_length=40, blank=True, help_text="Of the relay that takes it in (Relay.store)."
    )
    dest_server_id = models.CharField(max_length=64, blank=True)
    stall_ms = models.PositiveIntegerField(null=True, blank=True)

    created_at = models.DateTimeField()
    rung_at = models.DateTimeField(null=True, blank=True)
    owner = models.CharField(max_length=120, blank=True)
    seen_at = models.DateTimeField(null=True, blank=True, help_text="Its relay's last beat.")
    taken_at = models.DateTimeField(
        null=True, blank=True, help_text="The moment whose state it brings."
    )
    finished_at = models.DateTimeField(null=True, blank=True)
    attempts = models.PositiveIntegerField(default=0)
    phase = models.CharField(max_length=40, blank=True)
    to_scan_bytes = models.BigIntegerField(null=True, blank=True)
    scanned_bytes = models.BigIntegerField(default=0)
    changed_bytes = models.BigIntegerField(default=0)
    sent_bytes = models.BigIntegerField(default=0, help_text="On the wire.")
    left_s = models.FloatField(null=True, blank=True)
    detail = models.CharField(max_length=500, blank=True)
    cleaned_at = models.DateTimeField(
        null=True, blank=True, help_text="After its end: nothing is left of it but its result."
    )

    class Meta:
        ordering = ("-created_at",)
        indexes = (
            models.Index(fields=("dest_region", "dest_volume_id"), name="pass_dest_volume"),
            models.Index(
                fields=("source_region", "dest_region"),
                condition=Q(state__in=("waiting", "running")),
                name="pass_open_by_link",
            ),
            models.Index(
                fields=("finished_at",),
                condition=Q(cleaned_at__isnull=True),
                name="pass_to_clean",
            ),
        )

    def __str__(self) -> str:
        return self.key
