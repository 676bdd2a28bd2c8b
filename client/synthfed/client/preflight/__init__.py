"""The parts of a preflight that need no study's records: its findings, the machine, and how long a step takes.

Never charges the ledger, sends a record or reads one.
"""
