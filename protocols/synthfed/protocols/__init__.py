"""The kernel: what the parties of a study must agree on, as pure functions over bytes and arrays.

Never does input or output, reads a clock or draws its own randomness.
"""
