from __future__ import annotations

import subprocess
import sys


def test_openstacksdk_is_imported_when_a_region_is_first_asked() -> None:
    script = (
        "import sys; from desktops.clouds.openstack import connect; "
        "connect('lab', cloud='lab'); assert 'openstack' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
