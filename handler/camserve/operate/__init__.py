"""Starting a TorchServe, and checking one."""
