"""Jobs and projects: what they produced, and what they are doing now.

``tails``, ``weaving`` and ``pretty`` are pure: tails joined to a text, texts woven into a log, JSON
set out for people.
"""
