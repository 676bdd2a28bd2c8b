"""The catalogue of plugins: what is installed, what it says of itself, whether it conforms, and how to start one.

Never takes part in a study: it is for those who choose, write and pin plugins.
"""
