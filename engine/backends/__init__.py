"""What answers a job folder: each back end is a process, behind one contract.

Begin with `contract`; `process` is what all of them do, `native` our own engine.
"""
