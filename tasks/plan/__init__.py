"""Cost becomes an order.

Begin with `plan`; `work` is what remains to be answered, `lengths` and `prediction` what is expected of it.
"""
