"""What speaks for or against a release: the port, the access log as it is written, health probes."""
