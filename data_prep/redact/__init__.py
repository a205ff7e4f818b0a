"""Redaction of personal data, on this machine only: typed, consistent placeholders such as ``[NAME_3]``.

``Redactor(names).redact(text)`` replaces names of the other people, phone numbers, e-mail and postal addresses,
cards, bank accounts, national ids, IP addresses, links that hold secrets, passwords and keys, and coordinates. A
number must pass its checksum, not a pattern alone. See ``redactor`` for the order in which detectors run.
"""

from __future__ import annotations

from data_prep.redact.redactor import AuditRow, Redactor

__all__ = ["AuditRow", "Redactor"]
