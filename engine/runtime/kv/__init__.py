"""KV memory: pages, the radix cache over them, and the pages that running requests share.

Begin with `pages`; its invariants are written out in `invariants`.
"""
