"""Python imports this at the start of every process, those that torch's tests spawn among them."""

from tests.conformance import no_gpu, shim

no_gpu.install()
shim.install()
