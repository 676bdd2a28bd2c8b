"""Compares models by measurement: simulated federations on the same rows, seeds and promise, and one table of them.

Never compares on rows that anything was trained on, and never reads private records: all of them are in one place.
"""
