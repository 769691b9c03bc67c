"""Interactive segmentation for viewers: sessions, and the protocols in front of them.

`session.py` holds nnInteractive's verbs and knows no HTTP; every inference of all sessions runs on one worker's thread.
"""
