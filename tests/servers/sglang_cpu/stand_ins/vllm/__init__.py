"""Stands for vLLM, of which SGLang wants one operation on a CPU without AMX: see `_custom_ops`."""
