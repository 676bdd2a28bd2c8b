"""What ``synthfed plugins new`` copies: a small working model, its test, its package's description.

Never installed as a plugin itself: no entry point names it.
"""
