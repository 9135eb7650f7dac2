"""The worker service: claims durable jobs, runs them on the pools of its processes, and settles them."""
