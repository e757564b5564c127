"""Where step infer is computed.

`here` is this process; `handover` gives the run to another machine and takes it back, by the words of
`contract`.
"""
