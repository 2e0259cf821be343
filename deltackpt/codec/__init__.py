"""From a block's bytes to a record's payload and back: predict, take the residual, encode.

``encode_block`` and ``decode_block`` are the entry points, and ``choose`` for who asks beforehand which prediction a
block gets. What they take and give back is plain: bytes of a block, bytes of the predictor's inputs, ids and payloads.
Where inputs come from (needs, tiles, stores) is decided above.
"""

from deltackpt.codec.block import Candidate, Choice, CodecOptions, Encoded, choose, decode_block, encode_block
from deltackpt.codec.workspace import Workspace

__all__ = ["Candidate", "Choice", "CodecOptions", "Encoded", "Workspace", "choose", "decode_block", "encode_block"]
