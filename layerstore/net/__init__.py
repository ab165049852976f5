"""HTTP for the whole project: one client, whose servers are not trusted."""
