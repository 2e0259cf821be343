"""Coders, one a file."""
