"""The way in: checkpoint files -> tensors and literal bytes -> steps of a store."""
