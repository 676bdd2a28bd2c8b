"""Whether a site's people agree to a study: what they are shown, what they sign, and what the agent makes of it.

Never lets silence, a doubtful file or a changed byte count as a yes.
"""
