"""What people do around nights.

Begin with `dates` (how a date stands); `status`, `doctor`, `backfill`, `retention`, `forget` and `calibrate`
are each behind the command of that name (`retention` behind `gc`).
"""
