"""Models in and out: Hugging Face directories, directories of our own naming, StableHLO."""
