"""The engine at run time: KV pages and radix cache, scheduler, model runners, sampler.

Begin with `core`, the loop of the engine; `setup` makes its runner. The rooms below are used by these two and
do not know them; what the rooms hand to each other is in `state`.
"""
