"""What is normal: the signals, classes and maps of reference photos."""
