from __future__ import annotations

import sys

from desktops.clouds.simulator.process import main

sys.exit(main())
