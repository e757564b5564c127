"""The steps of a night and what they stand on, a room for each; no file here knows Prefect.

Data runs one way: `extract` (objects become rows), `profile` (tokens and cost), `plan` (an order), `infer`
(durable answers), `publish` (the publication of the date). `attempt` and `night` say whose run it is,
`runlog` is its memory, `store` and `warehouse` are where things lie, `base` is what all stand on.
"""
