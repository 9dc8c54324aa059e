"""A page to type text into and see how it is routed; `mlx-moebench demo` serves it (extra ``demo``)."""
