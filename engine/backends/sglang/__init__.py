"""SGLang as a back end; ``PYTHON -m engine.backends.sglang FOLDER FD`` runs it.

PYTHON has SGLang, and of this project the package `engine` alone: what is imported here needs numpy and
numba, and SGLang where it is loaded. Begin with `answer`; who asks for it begins with `examine`.
"""
