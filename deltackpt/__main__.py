"""``python -m deltackpt``: the same as the ``deltackpt`` script."""

from deltackpt.cli.main import run

if __name__ == "__main__":
    run()
