"""The estimate: what a night of logged requests would take and save, simulated before any GPU is rented.

Begin with `estimate`. `read` reads the logs, `requests` holds them, `machine` says what they run on, `case`
simulates orders over both, `savings` compares and says how sure that is, `gain_parts` where the gain comes
from, `report` puts it together, `words` and `page` say it. `trust` compares an estimate with real nights.
"""
