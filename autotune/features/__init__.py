"""Hidden states of frozen layers, computed once and read by every trial of a study.

Importing this package loads nothing heavy: take what is needed from its modules.
"""
