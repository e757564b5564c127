"""The model runner on the CPU: the reference, and the embedded default.

Begin with `runner`; `batch` turns a step's work into the tensors of its operations.
"""
