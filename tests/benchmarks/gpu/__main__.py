"""Everything that is measured on a GPU, in one command and within 8 minutes.

    python -m tests.benchmarks.gpu                  # prints a table, writes results/gpu-<device>.json
    python -m tests.benchmarks.gpu --only vLLM      # one part again, into the same file
    python -m tests.benchmarks.gpu --dry            # tiny, on the CPU: tries the command, measures nothing

Ceilings first, then each kernel as a share of its ceiling, then the engine. The parts run in other processes:
one that fails, crashes or takes too long is named, with its traceback, and does not keep the others from
being measured. The results are written after every part. The exit code is 1 if anything failed or is wrong.
"""

from __future__ import annotations

from tests.benchmarks.gpu.command import main
from tests.benchmarks.gpu.parts import REQUIRED

if __name__ == "__main__":
    raise SystemExit(main("tests.benchmarks.gpu.parts:PARTS", "gpu", REQUIRED, __doc__ or ""))
