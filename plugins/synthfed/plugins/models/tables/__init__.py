"""The anchor of tables: private marginals and two-way moments, and the generator fitted to them.

Never sees a record but through a declared sum.
"""
