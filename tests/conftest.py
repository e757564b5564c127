"""Settings for all tests."""

import os

from hypothesis import settings

# The models of the tests are tiny: a second thread only waits, and spins while it does.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

# How long an example takes depends on what else the machine does.
settings.register_profile("nightblend", deadline=None)
settings.load_profile("nightblend")
