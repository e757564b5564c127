"""Reports: one document of text, tables and plots, written as a self-contained HTML page and as markdown.

`document` is the document and its two forms, `plots` how plots look; both know nothing of runs.
`night_report` makes the report of a night (`night_data` reads what it is made from, `night_plots` draws it,
`orders` simulates other orders, `files` writes it), `inspect_run` looks into a run that may be under way.
"""
