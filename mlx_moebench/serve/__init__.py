"""mlx-lm's own server with the routers tapped: the same flags, endpoints and answers, and what the routers did."""
