"""What everything else stands on: errors, accounting, schemas of tables, identity, the run date.

Begin with `errors` (what can be wrong) and `accounting` (nothing gets lost).
"""
