"""Weeks of invented work in the database, enough to forecast from and to compare with."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
from django.utils import timezone

from desktops.models import Activity, DesktopUser
from tests.support.rows import Rows

DAYS = 45


def write_history(rows: Rows) -> None:
    """Everybody at work from eight to five, every day, for six weeks up to the clock."""
    Activity.objects.filter(dataset=rows.dataset).delete()
    as_of = rows.dataset.clock(wall=timezone.now())
    random = np.random.default_rng(0)
    Activity.objects.bulk_create(
        Activity(
            dataset=rows.dataset,
            desktop_user=person,
            desktop=person.desktop,
            hour=hour,
            active_ratio=1.0,
            cpu_cores=random.gamma(9, 1 / 9),
            memory_bytes=3e9 * random.gamma(50, 1 / 50),
            network_bytes_per_s=1e5 * random.gamma(2, 1 / 2),
            storage_bytes_per_s=1e5 * random.gamma(2, 1 / 2),
        )
        for person in DesktopUser.objects.filter(dataset=rows.dataset).order_by("pk")
        for hour in (as_of - timedelta(hours=h) for h in range(1, DAYS * 24))
        if 8 <= hour.hour < 17
    )
