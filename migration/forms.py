"""What people fill in about plans and transitions."""

from __future__ import annotations

from typing import Any

from django import forms

from desktops.pages import ListForm
from migration.core.machine import State
from migration.models import Recommendation, Shadow


class PlanForm(ListForm):
    """Which recommendations to show; without an action, those that propose something."""

    ANY = "any"

    action = forms.ChoiceField(
        required=False,
        choices=[("", "Proposals"), *Recommendation.Action.choices, (ANY, "Everything")],
    )
    state = forms.ChoiceField(
        required=False, choices=[("", "Any state"), *Recommendation.State.choices]
    )


class TransitionsForm(ListForm):
    state = forms.ChoiceField(
        required=False,
        choices=[
            ("", "Any state"),
            ("running", "Running"),
            *((state.value, state.label) for state in State),
        ],
    )


class ShadowsForm(ListForm):
    """Which shadows to show; without a state, those that are kept."""

    ANY = "any"

    state = forms.ChoiceField(
        required=False,
        choices=[("", "Kept"), *Shadow.State.choices, (ANY, "Every state")],
    )


class ScheduleForm(forms.Form):
    """minutes : between passes; empty: moves alone bring the shadow up to date"""

    minutes = forms.DecimalField(
        required=False,
        min_value=1,
        max_value=7 * 24 * 60,
        decimal_places=2,
        label="Minutes",
        widget=forms.NumberInput(attrs={"class": "form-control w-auto"}),
    )

    @classmethod
    def of(cls, shadow: Shadow) -> ScheduleForm:
        every = shadow.sync_interval_s
        return cls(initial={"minutes": f"{every / 60:g}" if every else None})

    def interval_s(self) -> int | None:
        minutes = self.cleaned_data["minutes"]
        return None if minutes is None else round(minutes * 60)

    def why_not(self) -> str:
        return "Minutes between passes: " + " ".join(self.errors["minutes"])


class ReleaseForm(forms.Form):
    may_delete = forms.BooleanField()


class NoteForm(forms.Form):
    note = forms.CharField(required=False, max_length=500)


class ApprovalForm(NoteForm):
    """cutover : when to cut over, once approved"""

    ONCE_CONFIRMED = "confirmed"
    AS_SOON_AS_READY = "ready"

    cutover = forms.ChoiceField(
        choices=(
            (ONCE_CONFIRMED, "Cut over once the prediction is confirmed"),
            (AS_SOON_AS_READY, "Cut over as soon as the shadow is ready"),
        )
    )

    def values(self) -> dict[str, Any]:
        """What the service is given."""
        return {
            "note": self.cleaned_data["note"],
            "confirm_now": self.cleaned_data["cutover"] == self.AS_SOON_AS_READY,
        }
