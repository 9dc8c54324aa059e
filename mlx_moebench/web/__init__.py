"""What demo and serve have in common: whom they answer."""
