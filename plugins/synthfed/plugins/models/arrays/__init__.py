"""The anchor of images and series: private moments in a fixed basis, and the mixture fitted to them.

Never sees a record but through a declared sum.
"""
