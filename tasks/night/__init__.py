"""What all steps of a night share: what was asked for, the run, the model's folder."""
