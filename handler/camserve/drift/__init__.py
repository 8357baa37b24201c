"""What counters and audit logs say about drift."""
