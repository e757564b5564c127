"""What answers a job folder: each back end is a process, behind one contract.

Begin with `contract`; `process` is what all of them do, `facts` what is known of one; `native` is
our own engine, `endpoint` one that is reached over HTTP.
"""
