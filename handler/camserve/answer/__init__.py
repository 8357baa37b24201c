"""From maps and scores to predictions, JSON and pictures."""
