"""Tasks: what is learned. A task turns a model and a batch into a loss and named means."""
