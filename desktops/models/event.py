from __future__ import annotations

from django.db import models

from desktops.models.fleet import Pool


class Event(models.Model):
    """One committed change, in the order of commits; rows are never changed or deleted.

    `seq` grows by commit order (see desktops.events.record), so that a reader who has seen n
    has seen everything before n. A trigger refuses UPDATE and DELETE.
    """

    seq = models.BigIntegerField(primary_key=True)
    previous_seq = models.BigIntegerField(
        default=0, help_text="The event before it in the same pool: how a reader sees a gap."
    )
    at = models.DateTimeField()
    kind = models.CharField(max_length=60, help_text="Past tense: transition.moved, plan.made …")
    pool = models.ForeignKey(
        Pool,
        null=True,
        on_delete=models.DO_NOTHING,
        db_constraint=False,
        related_name="+",
        help_text="Who may see it; empty: everybody who is signed in.",
    )
    object_type = models.CharField(max_length=40)
    object_id = models.CharField(max_length=64)
    actor = models.CharField(max_length=150, blank=True, help_text="Empty: the product itself.")
    payload = models.JSONField(default=dict)

    class Meta:
        ordering = ("seq",)
        indexes = (
            models.Index(fields=("pool", "seq"), name="event_pool_seq"),
            models.Index(fields=("object_type", "object_id", "seq"), name="event_object_seq"),
        )

    def __str__(self) -> str:
        return f"{self.seq} {self.kind}"
