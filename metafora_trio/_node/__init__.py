"""A node: its consumer, one membership for each session, and a child nursery for each task."""
