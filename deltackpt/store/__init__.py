"""What a store holds and what may be done with it: steps, bases, closures, commits. Bytes move in ``pipeline``."""
