"""Archives served by one process without TorchServe: an ASGI application, and uvicorn to run it."""
