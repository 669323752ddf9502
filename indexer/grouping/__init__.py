"""Group faces without a name by person."""
