"""The model runner on a GPU: padded steps in graphs, one step in flight, nano-batches.

Begin with `runner`; `staging` brings a step to the device.
"""
