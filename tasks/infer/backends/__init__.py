"""What answers: the engine's process, seen from the step that feeds it.

Begin with `engine_process`.
"""
