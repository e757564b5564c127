"""``python -m engine.backends.native FOLDER FD``: the process of our own engine."""

import os
import sys
import threading
from functools import partial

if __name__ == "__main__":
    # AMX tiles need a permission that some sandboxes refuse although the processor lists them, and then a
    # bfloat16 product on the CPU ends the process. Float32 does not use them. Read when torch is imported.
    os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_FP16")

    from engine.backends.native.answer import answer, prepare
    from engine.backends.process import leave, main

    asked = threading.Event()
    leave(main(partial(answer, asked=asked), sys.argv[1:], prepare, asked))
