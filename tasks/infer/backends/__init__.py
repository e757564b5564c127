"""What answers: the engine's process, seen from the step that feeds it.

Begin with `engines` (which one, and what it can do), then `engine_process`.
"""
