"""The command line: one command a file, one output sink (``output.py``), one error handler (``main.py``).

It loads no torch, so that it answers at once; only ``restore`` does, when it runs.
"""
