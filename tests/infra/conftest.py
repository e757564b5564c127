"""The demo's scripts are no package: they are run from their folder, and so they are imported here."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "infra" / "demo"))
