"""Where tensors lie in checkpoint files. Nothing that a file says is imported, called or inflated."""
