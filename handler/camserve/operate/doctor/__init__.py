"""What in a TorchServe's configuration is unsafe or will not work with camserve.

The rules follow what one request or one open port can do to TorchServe 0.12.0, whose defaults fetch
models from any address, hand workers every secret of the environment and answer without metrics.
"""
