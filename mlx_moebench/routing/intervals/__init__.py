"""How sure a number is: resampling whole sequences."""
