"""The estimate: what a night of logged requests would take and save, simulated before any GPU is rented.

`requests` reads the logs, `machine` says what they run on, `case` simulates orders over both, `savings`
compares and says how sure that is, `sources` where the gain comes from, `report` puts it together.
"""
