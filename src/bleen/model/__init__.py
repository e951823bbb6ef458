"""Facts and rules: release, environment, traffic, deployment, sample, verdict. No I/O."""
