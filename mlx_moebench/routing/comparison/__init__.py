"""What differs between two measurements."""
