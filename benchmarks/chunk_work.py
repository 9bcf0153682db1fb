"""Works on a generation as a bulk worker's process does, until it is whole.

`python -m benchmarks.chunk_work GENERATION NOW`, with the settings in the environment and NOW in
ISO 8601, prints one line of JSON: chunks done, and the most memory that was resident.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from datetime import datetime

import django


def main(generation_id: int, now: datetime) -> None:
    django.setup()
    from forecasting.models import Generation
    from forecasting.services.generations import work_on
    from forecasting.services.scheduling import MAKERS

    generation = Generation.objects.get(pk=generation_id)
    chunks = 0
    while generation.state == Generation.State.RUNNING:
        if work_on(generation, make=MAKERS[generation.kind], clock=lambda: now):
            chunks += 1
        else:
            time.sleep(0.1)
        generation.refresh_from_db()
    if generation.state != Generation.State.COMPLETE:
        raise SystemExit(generation.failure)
    resident_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    print(json.dumps({"chunks": chunks, "resident_gb": resident_gb}))


if __name__ == "__main__":
    main(int(sys.argv[1]), datetime.fromisoformat(sys.argv[2]))
