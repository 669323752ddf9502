"""What takes photos, models and galleries together, a verb a file: for the command line and a server alike."""
