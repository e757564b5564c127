"""Everything that runs on the GPU node: cost model, planner, scheduler, model runner.

Importable with numpy, numba, torch, triton, transformers, tokenizers and safetensors alone.
"""

ANSWER_VERSION = 1
"""Part of every run's key. Raise it only when the same request would get a different answer."""
