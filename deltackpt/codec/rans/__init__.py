"""The residual coder "rans" in numpy: the oracle of the compiled kernels, and what runs where there are none.

``docs/format.md`` section 5 specifies the payload. Both implementations give the same bits in both directions.
"""

from deltackpt.codec.rans.decode import decode
from deltackpt.codec.rans.encode import encode
from deltackpt.codec.rans.plan import estimate

__all__ = ["decode", "encode", "estimate"]
