"""``python -m engine FOLDER FD``: the engine process; see `engine.backends.native`."""

import os
import sys

# AMX tiles need a permission that some sandboxes refuse although the processor lists them, and then a
# bfloat16 product on the CPU ends the process. Float32 does not use them.
os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_FP16")

from engine.backends.native import main

sys.exit(main(sys.argv[1:]))
