"""Built-in models: each file names a model's private part and its public part side by side.

Never adds noise, samples units or opens a file: those belong to the core.
"""
