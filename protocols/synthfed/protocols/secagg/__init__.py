"""Secure aggregation: pairwise masks over an authenticated handshake, one message per step.

Never does input or output, reads a clock or draws its own randomness; see docs/security.md.
"""
