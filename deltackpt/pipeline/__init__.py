"""The two ways of the data: ``save`` (tensor to record) and ``load`` (record to tensor).

Planning (``plan_*``) is pure; executing does not decide.
"""
