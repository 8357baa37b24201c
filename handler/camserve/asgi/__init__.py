"""Archives served without TorchServe: an ASGI application in uvicorn, before this process or replicas of Ray."""
