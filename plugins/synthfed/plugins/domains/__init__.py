"""Built-in domains: how a kind of data is read, written and turned into vectors.

Never derives an encoder from private records: bounds, categories and bins come from the schema.
"""
