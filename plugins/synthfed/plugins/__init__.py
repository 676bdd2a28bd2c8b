"""The plugin contract, the built-in plugins and the root command.

Never imports the client or the server: both are found by entry point.
"""
