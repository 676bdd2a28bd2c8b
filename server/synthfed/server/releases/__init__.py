"""What is done with a release once it is there: to sample it again, and to audit it.

Never changes a release.
"""
