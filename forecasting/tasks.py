"""Celery's doors to the services."""

from __future__ import annotations

from celery import shared_task
from django.utils import timezone

from forecasting.services import contradictions, drift, forecasts, scheduling, training


@shared_task
def run_forecast(dataset_id: int) -> None:
    forecasts.order_forecast(dataset_id=dataset_id, clock=timezone.now)


@shared_task
def work_on_forecast(generation_id: int) -> None:
    scheduling.work_on_forecast(generation_id=generation_id, clock=timezone.now)


@shared_task
def sweep_forecasts() -> None:
    scheduling.sweep_forecasts(clock=timezone.now)


@shared_task
def heed_sightings() -> None:
    contradictions.heed_sightings(clock=timezone.now)


@shared_task
def train_engine(dataset_id: int, engine: str) -> None:
    training.train_engine(dataset_id=dataset_id, engine=engine, clock=timezone.now)


@shared_task
def watch_forecasts() -> None:
    drift.watch_forecasts(clock=timezone.now)
