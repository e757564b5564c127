"""Where the order comes from: prefix tree, output-length estimates, order policies, dual scan.

Begin with `policies`; `scan` is the part of the plan that runs with the engine.
"""
