"""The built-in audits: what synthetic rows keep of the real ones, with interval, floor and ceiling.

Never imports an audit here: each is found by entry point.
"""
