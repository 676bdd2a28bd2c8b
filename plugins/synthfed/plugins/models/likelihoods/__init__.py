"""Models trained by a likelihood: one engine, and what families have in common.

Never a plugin by itself: a family in the folder above names its network and loss.
"""
