"""Where the order comes from: prefix tree, output-length estimates, order policies, dual scan."""
