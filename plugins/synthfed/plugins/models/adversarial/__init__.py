"""GANs: the engine that trains every one, and what families have in common.

Never a plugin by itself: a family in the folder above names its networks and losses.
"""
