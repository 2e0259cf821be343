"""How training programs lay checkpoints out on disk: one file for each, and ``discover`` which knows them all."""
