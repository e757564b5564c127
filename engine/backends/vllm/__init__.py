"""vLLM in its own process as a back end; ``PYTHON -m engine.backends.vllm FOLDER FD`` runs it.

PYTHON has vLLM, and of this project the package `engine` alone: what is imported here needs numpy and numba,
and vLLM where it is loaded. Begin with `answer`; who asks for it begins with `examine`.
"""
