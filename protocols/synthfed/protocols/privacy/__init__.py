"""What a private sum costs and how its coins and noise are drawn.

Never bounds a mechanism it does not know: unknown means refuse.
"""
