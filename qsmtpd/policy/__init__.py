"""Who may send what to whom: the hooks, and one file per plugin."""
