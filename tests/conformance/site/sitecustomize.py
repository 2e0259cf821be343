"""Python imports this at the start of every process, those that torch's tests spawn among them."""

from tests.conformance.shim import install

install()
