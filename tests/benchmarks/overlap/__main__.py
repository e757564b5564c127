"""What running compute and memory work side by side gains on a GPU: the measurement the decision rests on.

    python -m tests.benchmarks.overlap          # on a GPU, within 8 minutes: results/overlap-<device>.json
    python -m tests.benchmarks.overlap --dry    # tiny, on the CPU: tries the command, measures nothing

Read rate by blocks, rate of matrix products by rows and by multiprocessors left out; then the pair of one
layer's products with a decode attention of equal length, by every strategy, launched and captured; then the
interference by the share of memory time, and what the simulator makes of it. Under 1.15x it is not worth it.
"""

from __future__ import annotations

from tests.benchmarks.gpu.command import main
from tests.benchmarks.overlap.parts import REQUIRED

if __name__ == "__main__":
    raise SystemExit(main("tests.benchmarks.overlap.parts:PARTS", "overlap", REQUIRED, __doc__ or ""))
