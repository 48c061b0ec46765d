"""Sampling: functions of a step function, whatever model is behind it."""
