"""What a site writes down for its own people to read: the log of its decisions, and statements of its ledger.

Never holds a value of a record, and never leaves the site.
"""
