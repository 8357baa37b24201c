"""The network of an archive as OpenVINO runs it."""
