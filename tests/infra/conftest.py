"""The demo's scripts are no package: they are run from their folder, and so they are imported here."""

import sys

from tests.support.paths import ROOT

sys.path.insert(0, str(ROOT / "infra" / "demo"))
