"""What is remembered: lease, route, environment, deployment, journal, command, applied, event; every write fenced."""
