"""Settles batches without a pause, until it is ended: the worker's part in benchmarks.ingest."""

from __future__ import annotations

import time

import django


def main() -> None:
    django.setup()
    from django.utils import timezone

    from desktops.services.batches import settle

    settle(clock=timezone.now)
    print("ready", flush=True)
    while True:
        if not settle(clock=timezone.now):
            time.sleep(0.005)


if __name__ == "__main__":
    main()
