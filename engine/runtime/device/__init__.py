"""The model runner on a GPU: padded steps in graphs, one step in flight, nano-batches."""
