"""Settings for all tests."""

import os

# The models of the tests are tiny: a second thread only waits, and spins while it does.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
