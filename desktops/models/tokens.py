"""What programs show to be let in: shown once, stored as a digest (desktops.tokens)."""

from __future__ import annotations

from django.contrib.postgres.fields import ArrayField
from django.db import models

from desktops.models.dataset import Dataset
from desktops.models.fleet import Desktop, Pool


class EnrolmentToken(models.Model):
    """Lets agents of one pool's desktops in, each once; it becomes a desktop's own token."""

    pool = models.ForeignKey(Pool, on_delete=models.CASCADE, related_name="enrolment_tokens")
    digest = models.CharField(max_length=64, unique=True)
    uses_left = models.PositiveIntegerField(default=1)
    expires_at = models.DateTimeField()
    created_at = models.DateTimeField()
    created_by = models.CharField(max_length=150, blank=True)
    last_used_at = models.DateTimeField(null=True)

    def __str__(self) -> str:
        return f"{self.pool_id} until {self.expires_at:%Y-%m-%d}"


class AgentCredential(models.Model):
    """One desktop's agent: what it shows, and the server it is bound to."""

    desktop = models.OneToOneField(
        Desktop, on_delete=models.CASCADE, primary_key=True, related_name="agent"
    )
    digest = models.CharField(max_length=64, unique=True)
    enrolled_server_id = models.CharField(max_length=64)
    enrolled_at = models.DateTimeField()
    revoked_at = models.DateTimeField(null=True)
    last_seen_at = models.DateTimeField(null=True)
    version = models.CharField(max_length=20, blank=True)

    def __str__(self) -> str:
        return f"agent of {self.desktop_id}"


class AgentCommand(models.Model):
    """What an agent is to do in its desktop; it asks for these, nobody reaches in."""

    class Kind(models.TextChoices):
        NOTIFY = "notify", "Tell the user something"
        QUIESCE = "quiesce", "Write everything to disk"
        HIBERNATE = "hibernate", "Hibernate"

    class Outcome(models.TextChoices):
        WAITING = "waiting", "Waiting for the agent"
        DONE = "done", "Done"
        FAILED = "failed", "Failed"
        EXPIRED = "expired", "Expired"

    desktop = models.ForeignKey(Desktop, on_delete=models.CASCADE, related_name="commands")
    kind = models.CharField(max_length=12, choices=Kind.choices)
    arguments = models.JSONField(default=dict)
    created_at = models.DateTimeField()
    created_by = models.CharField(max_length=150, blank=True)
    expires_at = models.DateTimeField()
    delivered_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)
    outcome = models.CharField(max_length=10, choices=Outcome.choices, default=Outcome.WAITING)
    detail = models.CharField(max_length=300, blank=True)

    class Meta:
        indexes = (
            models.Index(
                fields=("desktop",),
                name="command_waiting",
                condition=models.Q(outcome="waiting"),
            ),
        )

    def __str__(self) -> str:
        return f"{self.kind} {self.desktop_id}"


class IntegrationToken(models.Model):
    """A program that tells of presence, notices and events; it sees nothing beyond its data set."""

    class Scope(models.TextChoices):
        PRESENCE = "presence", "Report presence"
        NOTICES = "notices", "Write and read notices"
        PEOPLE = "people", "Export and erase people"
        ROUND_TRIPS = "round_trips", "Report round trips to regions"

    dataset = models.ForeignKey(Dataset, on_delete=models.CASCADE, related_name="tokens")
    pool = models.ForeignKey(
        Pool,
        null=True,
        blank=True,
        on_delete=models.CASCADE,
        related_name="+",
        help_text="Empty: every pool of the data set.",
    )
    name = models.CharField(max_length=80)
    digest = models.CharField(max_length=64, unique=True)
    scopes = ArrayField(models.CharField(max_length=12, choices=Scope.choices))
    created_at = models.DateTimeField()
    created_by = models.CharField(max_length=150, blank=True)
    expires_at = models.DateTimeField()
    last_used_at = models.DateTimeField(null=True)
    revoked_at = models.DateTimeField(null=True)

    def __str__(self) -> str:
        return self.name
