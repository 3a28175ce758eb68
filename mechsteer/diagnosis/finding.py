"""One thing that a diagnosis found."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Attributes:
        about: Which question it answers.
        says: ``above`` or ``below`` a control, ``no evidence``, ``measured`` for a number without a test; of the
            verdict the cause.
        sentence: The finding in words, with its number and its uncertainty.
    """

    about: str
    says: str
    sentence: str

    def __str__(self) -> str:
        return self.sentence
