"""Data as a function of the step: sources of examples, and the datasets that order them."""
