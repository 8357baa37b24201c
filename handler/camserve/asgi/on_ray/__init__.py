"""The workers of archives as replicas of Ray Serve, behind the same routes."""
