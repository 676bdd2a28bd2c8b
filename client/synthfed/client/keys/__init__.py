"""A site's keys: the files that hold them, what seals them, and how one follows another.

Never writes a private key that others can read.
"""
