"""Reports: one document of text, tables and plots, written as a self-contained HTML page and as markdown.

`document` is the document and its two forms, `plots` how plots look; both know nothing of runs.
"""
