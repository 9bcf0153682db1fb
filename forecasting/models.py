from __future__ import annotations

from datetime import timedelta

from django.contrib.postgres.fields import ArrayField
from django.db import models

from desktops.models import Dataset, Desktop, DesktopUser, Pool
from desktops.models.activity import RealField
from forecasting.core.drift import DriftKind
from forecasting.fields import HoursField, PlacesField


class Generation(models.Model):
    """One forecast of a whole data set; its profiles are visible only when it is complete.

    A full one is fitted on the whole history. A refresh takes the newest full one and what was
    observed since, and fits nothing anew.
    """

    class Kind(models.TextChoices):
        FULL = "full", "Full"
        REFRESH = "refresh", "Refresh"

    class State(models.TextChoices):
        RUNNING = "running", "Running"
        COMPLETE = "complete", "Complete"
        FAILED = "failed", "Failed"

    dataset = models.ForeignKey(Dataset, on_delete=models.CASCADE, related_name="generations")
    kind = models.CharField(max_length=10, choices=Kind.choices, default=Kind.FULL)
    base = models.ForeignKey(
        "self",
        null=True,
        on_delete=models.SET_NULL,
        related_name="refreshes",
        help_text="The full forecast that was refreshed.",
    )
    as_of = models.DateTimeField(help_text="No observation after this moment was used.")
    engine = models.CharField(max_length=60)
    state = models.CharField(max_length=10, choices=State.choices, default=State.RUNNING)
    profiles_total = models.PositiveIntegerField(default=0)
    profiles_done = models.PositiveIntegerField(default=0)
    failure = models.CharField(max_length=500, blank=True)
    started_at = models.DateTimeField()
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ("-as_of", "-pk")
        indexes = (models.Index(fields=("dataset", "state", "-as_of"), name="generation_latest"),)
        constraints = (
            models.UniqueConstraint(
                fields=("dataset",),
                condition=models.Q(state="running"),
                name="generation_one_running",
            ),
        )

    def __str__(self) -> str:
        return f"{self.dataset_id} at {self.as_of:%Y-%m-%d %H:%M}"

    @property
    def took(self) -> timedelta | None:
        """From its start to its end; None while it is made."""
        return self.finished_at - self.started_at if self.finished_at else None


class ForecastChunk(models.Model):
    """Some subjects of a generation in the making: what a worker forecasts in one go.

    Rows last as long as the work. Whoever works on a chunk holds a lock that goes with their
    connection (see services.generations), so a worker that dies leaves nothing behind to expire.
    """

    generation = models.ForeignKey(Generation, on_delete=models.CASCADE, related_name="chunks")
    number = models.PositiveIntegerField()
    time_zone = models.CharField(max_length=60, help_text="Whose clock the subjects live by.")
    people = ArrayField(models.BigIntegerField(), help_text="Primary keys.")
    desktops = ArrayField(
        models.BigIntegerField(), help_text="Of these people, and machines without a person."
    )
    attempts = models.PositiveSmallIntegerField(default=0)
    error = models.CharField(max_length=400, blank=True, help_text="Of the newest attempt.")
    done_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ("generation", "number")
        constraints = (models.UniqueConstraint(fields=("generation", "number"), name="chunk_once"),)

    def __str__(self) -> str:
        return f"chunk {self.number} of generation {self.generation_id} ({self.time_zone})"


class ResourceDemandProfile(models.Model):
    """What one person (or machine) is expected to need, and where they are expected to be.

    Hour h of every array is the hour that begins at `starts_at` + h hours. The demand arrays
    have shape (HORIZON_HOURS, len(levels)): the quantiles of demand given a session, in the unit
    of their name, None where nothing is known. `location` maps a site's code, or `elsewhere`, to
    a probability per hour; the probabilities of an hour sum to 1.
    """

    generation = models.ForeignKey(Generation, on_delete=models.CASCADE, related_name="profiles")
    pool = models.ForeignKey(Pool, on_delete=models.PROTECT, related_name="profiles")
    desktop_user = models.ForeignKey(
        DesktopUser, null=True, on_delete=models.CASCADE, related_name="profiles"
    )
    desktop = models.ForeignKey(
        Desktop, null=True, on_delete=models.CASCADE, related_name="profiles"
    )
    starts_at = models.DateTimeField()
    levels = ArrayField(RealField())
    cpu_cores = HoursField(is_table=True, null=True)
    memory_bytes = HoursField(is_table=True, null=True)
    network_bytes_per_s = HoursField(is_table=True, null=True)
    storage_bytes_per_s = HoursField(is_table=True, null=True)
    p_active = HoursField(null=True)
    location = PlacesField(default=dict)
    engine = models.CharField(max_length=60)
    is_from_pool = models.BooleanField(
        default=False, help_text="Too little history of its own: the pool's profile was used."
    )
    history_hours = models.PositiveIntegerField(default=0)
    engines = models.JSONField(
        default=dict,
        help_text="By resource and engine: the part it took, and its loss lately, as a ratio to"
        " repeating the day before; null where unknown.",
    )
    seen_at = models.DateTimeField(
        null=True, help_text="Where they were seen up to here was held against their map."
    )

    class Meta:
        constraints = (
            models.CheckConstraint(
                name="profile_has_subject",
                condition=models.Q(desktop_user__isnull=False) | models.Q(desktop__isnull=False),
            ),
            models.UniqueConstraint(
                fields=("generation", "desktop_user", "desktop"),
                name="profile_once_per_generation",
                nulls_distinct=False,
            ),
        )

    def __str__(self) -> str:
        return f"{self.desktop_user_id or self.desktop_id} from {self.starts_at:%Y-%m-%d %H:%M}"

    @property
    def has_demand(self) -> bool:
        """Whether any resource was forecast: of some people only the whereabouts are known."""
        return any(
            values is not None
            for values in (
                self.cpu_cores,
                self.memory_bytes,
                self.network_bytes_per_s,
                self.storage_bytes_per_s,
            )
        )


class BacktestRun(models.Model):
    """Engines scored on a sample of a data set, forecasting again from where the past stood."""

    dataset = models.ForeignKey(Dataset, on_delete=models.CASCADE, related_name="backtests")
    as_of = models.DateTimeField(help_text="The newest hour compared ends here.")
    started_at = models.DateTimeField()
    finished_at = models.DateTimeField(null=True)
    origins = ArrayField(models.DateTimeField())
    horizon_hours = models.PositiveSmallIntegerField()
    history_days = models.PositiveSmallIntegerField()
    subjects = models.PositiveIntegerField(help_text="People and machines drawn.")

    class Meta:
        ordering = ("-as_of", "-pk")

    def __str__(self) -> str:
        return f"backtest of {self.dataset_id} at {self.as_of:%Y-%m-%d %H:%M}"


class BacktestScore(models.Model):
    """What one engine reached in a run. Losses are ratios to the seasonal-naive forecast's."""

    run = models.ForeignKey(BacktestRun, on_delete=models.CASCADE, related_name="scores")
    engine = models.CharField(max_length=60)
    version = models.CharField(max_length=60)
    wql = models.FloatField(null=True, help_text="Geometric mean over the resources.")
    wql_by_resource = models.JSONField(default=dict)
    scaled_loss = models.FloatField(null=True, help_text="Mean over series of each one's ratio.")
    coverage_50 = models.FloatField(null=True)
    coverage_80 = models.FloatField(null=True)
    coverage_90 = models.FloatField(null=True)
    share_beating_naive = models.FloatField(null=True)
    silent_share = models.FloatField(default=0.0)
    series_per_s = models.FloatField(default=0.0)
    failure = models.CharField(max_length=400, blank=True)

    class Meta:
        ordering = (models.F("wql").asc(nulls_last=True), "engine")
        constraints = (
            models.UniqueConstraint(fields=("run", "engine"), name="backtest_score_once"),
        )

    def __str__(self) -> str:
        return f"{self.engine} in backtest {self.run_id}"


class BacktestExample(models.Model):
    """What the product would have said of one subject from `starts_at` on, to be compared."""

    run = models.ForeignKey(BacktestRun, on_delete=models.CASCADE, related_name="examples")
    pool = models.ForeignKey(Pool, on_delete=models.CASCADE, related_name="+")
    desktop_user = models.ForeignKey(
        DesktopUser, null=True, on_delete=models.CASCADE, related_name="backtests"
    )
    desktop = models.ForeignKey(
        Desktop, null=True, on_delete=models.CASCADE, related_name="backtests"
    )
    starts_at = models.DateTimeField()
    levels = ArrayField(models.FloatField())
    quantiles = models.JSONField(help_text="By resource: for each hour, a value for each level.")

    class Meta:
        ordering = ("pk",)

    def __str__(self) -> str:
        return f"example {self.pk} of backtest {self.run_id}"

    @property
    def label(self) -> str:
        """Who it is about, as lists call them."""
        subject = self.desktop_user or self.desktop
        return str(subject) if subject else ""


class TrainedEngine(models.Model):
    """A forecast engine that was trained on a data set's history, or is being trained.

    What it learnt is a file below MODELS_FOLDER; it is there when the row is complete.
    """

    class State(models.TextChoices):
        RUNNING = "running", "Running"
        COMPLETE = "complete", "Complete"
        FAILED = "failed", "Failed"

    dataset = models.ForeignKey(Dataset, on_delete=models.CASCADE, related_name="trained_engines")
    engine = models.CharField(max_length=60)
    version = models.CharField(max_length=20)
    seed = models.BigIntegerField()
    settings = models.JSONField(default=dict)
    window_start = models.DateTimeField(help_text="It learnt from what was observed from here,")
    window_end = models.DateTimeField(help_text="as far as here.")
    metrics = models.JSONField(
        default=dict, help_text="On the days after: weighted quantile loss of seasonal naive's."
    )
    file = models.CharField(max_length=200, blank=True, help_text="Below MODELS_FOLDER.")
    state = models.CharField(max_length=10, choices=State.choices, default=State.RUNNING)
    steps_total = models.PositiveIntegerField(default=0)
    steps_done = models.PositiveIntegerField(default=0)
    failure = models.CharField(max_length=500, blank=True)
    created_at = models.DateTimeField()
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ("-created_at", "-pk")
        indexes = (
            models.Index(fields=("dataset", "engine", "-created_at"), name="trained_latest"),
        )

    def __str__(self) -> str:
        return (
            f"{self.engine} {self.version} of {self.dataset_id}, {self.created_at:%Y-%m-%d %H:%M}"
        )


class ForecastScore(models.Model):
    """How a pool's published forecasts of one day and resource turned out.

    Scored against the full forecast that stood when the day began (UTC). Losses are sums over
    the hours of the mean pinball loss over levels, in the resource's unit.
    """

    pool = models.ForeignKey(Pool, on_delete=models.CASCADE, related_name="forecast_scores")
    day = models.DateField()
    resource = models.CharField(max_length=30)
    forecast_as_of = models.DateTimeField()
    hours = models.PositiveIntegerField(help_text="Forecast and then observed, over all subjects.")
    loss = models.FloatField()
    naive_loss = models.FloatField(help_text="Of the values of a week before.")
    inside_50 = models.FloatField(help_text="Hours inside the interval meant to hold half.")
    inside_80 = models.FloatField()
    inside_90 = models.FloatField()

    class Meta:
        ordering = ("pool", "-day", "resource")
        constraints = (
            models.UniqueConstraint(fields=("pool", "day", "resource"), name="score_once_a_day"),
        )

    def __str__(self) -> str:
        return f"{self.resource} of pool {self.pool_id} on {self.day}"


class ForecastAlert(models.Model):
    """A pool's forecasts of a resource do not hold what they promise; until it is cleared."""

    class Kind(models.TextChoices):
        COVERAGE = DriftKind.COVERAGE, "Coverage"
        LOSS = DriftKind.LOSS, "Loss"

    pool = models.ForeignKey(Pool, on_delete=models.CASCADE, related_name="forecast_alerts")
    resource = models.CharField(max_length=30)
    kind = models.CharField(max_length=10, choices=Kind.choices)
    detail = models.CharField(max_length=200)
    raised_at = models.DateTimeField()
    cleared_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ("-raised_at", "-pk")
        constraints = (
            models.UniqueConstraint(
                fields=("pool", "resource", "kind"),
                condition=models.Q(cleared_at=None),
                name="alert_one_standing",
            ),
        )

    def __str__(self) -> str:
        return f"{self.kind} of {self.resource} in pool {self.pool_id}"
