"""Files from elsewhere: what ADD and build contexts take from HTTP servers and git repositories."""
