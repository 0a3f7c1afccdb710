"""A node: its consumer, one membership per session, and a child nursery per task."""
