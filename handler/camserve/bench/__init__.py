"""The speed of explanations on this machine."""
