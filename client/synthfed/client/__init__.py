"""A site's side: the agent that alone touches records, and the relay that alone touches the network.

Never imports the server.
"""
