"""The one exception that the command line renders."""

from __future__ import annotations


class PersonaError(Exception):
    """Something the user can mend: shown as ``error: message`` and ``hint: hint``, exit status 1.

    A message states the requirement and the value: ``rank must be >= 1, got 0``.
    A hint, where there is one, names the command or the option that mends it.
    """

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class Interrupted(Exception):  # noqa: N818  (nothing went wrong)
    """The user stopped the command; what it had reached is saved. Exit status 130."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
