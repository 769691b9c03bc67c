"""The version of this package; packaging, reports and certificates read it here."""

__version__ = "0.1.0"
