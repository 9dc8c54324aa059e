"""What lies between domains."""
