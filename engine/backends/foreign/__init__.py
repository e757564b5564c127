"""What back ends of engines by others share: our scheduler beside theirs, orders, options, looking at them.

It is imported in the interpreter that has the other engine, so it needs numpy and numba at most. `ours`
decides step by step where an engine lets us; `order` is what one that does not is fed in. `look` and
`examine` find out what an interpreter has; `options`, `sizes` and `answers` are what goes in and comes out.
"""
