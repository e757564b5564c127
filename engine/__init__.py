"""Everything that runs on the GPU node: cost model, planner, scheduler, model runner.

Importable with numpy, numba, torch, triton, transformers, tokenizers and safetensors alone; it knows nothing
of storage. A job comes in as a folder (`engine.job`) and is answered by a process of `engine.backends`; the
loop of our own engine is `engine.runtime.core`.
"""

ANSWER_VERSION = 1
"""Part of every run's key. Raise it only when the same request would get a different answer."""
