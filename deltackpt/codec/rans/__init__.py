"""The residual coder "rans" in numpy: the oracle of the compiled kernels, and what runs where there are none.

``docs/format.md`` section 5 specifies the payload. Both implementations give the same bits in both directions.
"""

from deltackpt.codec.rans.decode import decode
from deltackpt.codec.rans.encode import encode
from deltackpt.codec.rans.layout import Structure, Survey
from deltackpt.codec.rans.part import Part
from deltackpt.codec.rans.rows import sort_rows
from deltackpt.codec.rans.survey import take_structure, take_survey

__all__ = ["Part", "Structure", "Survey", "decode", "encode", "sort_rows", "take_structure", "take_survey"]
