"""The coordinator's side: it schedules rounds, trains on released sums and writes releases.

Never imports the client, and never sees a record or one site's sum.
"""
