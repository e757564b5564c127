"""Whose run it is: opening an attempt, recording its input, ending it."""
