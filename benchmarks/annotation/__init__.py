"""A simulated annotator: what segmenting costs by hand, with a network, and with a cohort's review queue."""
