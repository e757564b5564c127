"""What people fill in: a form per flow, which is the form in Prefect and the options of a command alike.

Begin with `nightly.py`, the form of a night; `form.py` is what all forms share, `to_request.py` turns them
into what the steps take.
"""
