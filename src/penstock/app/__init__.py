"""Durable jobs as their users see them: an `App` and its tasks, the handles of their jobs, and the codec between."""
