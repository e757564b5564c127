"""Everything that runs on the GPU node: cost model, planner, scheduler, model runner.

Importable with numpy, numba, torch, triton, transformers, tokenizers and safetensors alone.
"""
