"""OCI layouts and the archives of docker and podman, read and written."""
