"""Real training runs that the demo and the benchmarks save, restore and measure. Not part of the installed package."""
