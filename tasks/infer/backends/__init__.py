"""The engine's process, seen from the step that feeds it."""
