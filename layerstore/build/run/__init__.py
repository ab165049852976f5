"""RUN steps: the OCI bundle, its mounts, and the processes around the runtime."""
