"""Damaged files by the thousand: what reads them must read them right or refuse them, and neither crash nor hang."""
