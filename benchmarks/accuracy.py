"""How good demand forecasts are on recorded machines: `manage.py evaluate_demand` beside its goals.

The folder of the data sets is FOREDESK_DATASETS, by default ../shared/datasets; what is not there
is not measured. The neural engines are measured where they are installed (make neural).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from benchmarks.figures import Figures, Goal, NotMeasured, main

GOALS: dict[str, Goal] = {
    "wql_bitbrains": ("<=", 0.70),
    "wql_asd": ("<=", 0.73),
    "cover50_bitbrains": ("+-0.02", 0.5),
    "cover80_bitbrains": ("+-0.02", 0.8),
    "cover90_bitbrains": ("+-0.02", 0.9),
    "share_beating_naive": (">=", 0.9),
    "wql_lstm_bitbrains": ("<", 1.16),
    "wql_transformer_bitbrains": ("<", 1.16),
}
ROOT = Path(__file__).resolve().parents[1]
DATASETS = Path(os.environ.get("FOREDESK_DATASETS", ROOT.parent / "shared" / "datasets"))
PEERS = ("seasonal", "prophet_batched", "pooled")
NEURAL = ("lstm", "transformer")


def run() -> Figures:
    # Bitbrains last: of figures both have, `share_beating_naive`, its own is what is asked for.
    found = [name for name in ("asd_servers_dev", "bitbrains_dev") if (DATASETS / name).is_dir()]
    if not found:
        raise NotMeasured(f"no data sets in {DATASETS} (FOREDESK_DATASETS names their folder)")
    figures: Figures = {}
    for name in found:
        figures |= _evaluated(DATASETS / name)
    return figures


def _evaluated(folder: Path) -> Figures:
    engines = ["product", *PEERS]
    if find_spec("torch"):
        engines += NEURAL
    chosen = [part for name in engines for part in ("--engine", name)]
    command = [sys.executable, "manage.py", "evaluate_demand", "--data", str(folder), "--json"]
    done = subprocess.run(
        [*command, *chosen], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    )
    *lines, last = done.stdout.strip().splitlines()
    print("\n".join(lines), flush=True)
    figures: Figures = json.loads(last)["figures"]
    return figures


if __name__ == "__main__":
    main(sys.modules[__name__])
