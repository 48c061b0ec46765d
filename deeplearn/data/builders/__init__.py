"""Own TFDS builders, which prepare without TensorFlow; only `data/tfds_records.py` imports them."""
