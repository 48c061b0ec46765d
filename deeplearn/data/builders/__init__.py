"""Own TFDS builders, which prepare without TensorFlow; only `data/tfds.py` imports them."""
