"""What is tried of a network before its archive is written."""
