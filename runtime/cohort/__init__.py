"""Cohorts: many studies by many workers, one row for each study and object, whatever happens on the way."""
