"""The run-time type checker of the tests: beartype, to which an int is a float, as to Python."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
