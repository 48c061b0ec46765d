"""Layers that models are built from; each keeps fp32 parameters and computes in its `dtype`."""
