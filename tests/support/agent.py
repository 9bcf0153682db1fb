"""The program that runs in guests, which is no part of any package here."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

PROGRAM = Path(__file__).resolve().parents[2] / "deploy/agent/foredesk_agent.py"


def load_agent() -> ModuleType:
    if "foredesk_agent" not in sys.modules:
        spec = importlib.util.spec_from_file_location("foredesk_agent", PROGRAM)
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        sys.modules["foredesk_agent"] = module  # dataclasses look their module up there
        spec.loader.exec_module(module)
    return sys.modules["foredesk_agent"]
