"""The back end that is our own engine; ``python -m engine.backends.native FOLDER FD`` runs it.

Begin with `answer`.
"""
