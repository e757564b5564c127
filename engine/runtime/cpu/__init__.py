"""The model runner on the CPU: the reference, and the embedded default."""
