"""The type checker of the test runs: beartype, with an int allowed where a float is annotated, as PEP 484 says."""

from beartype import BeartypeConf, beartype

checker = beartype(conf=BeartypeConf(is_pep484_tower=True))
