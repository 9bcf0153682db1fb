"""Celery's doors to the services."""

from __future__ import annotations

from celery import shared_task
from django.utils import timezone

from forecasting.services import forecasts


@shared_task
def run_forecast(dataset_id: int) -> None:
    forecasts.run_forecast(dataset_id=dataset_id, clock=timezone.now)
